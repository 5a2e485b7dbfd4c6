"""The options of `python -m rearm_jax.data.prepare`, and which of them go together."""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from os.path import expanduser

from rearm_jax.data.dataset import check_modalities
from rearm_jax.data.encode import CACHE_DIR, IMAGE_MODEL, TEXT_MODEL, check_encoder_installed
from rearm_jax.data.folder import check_out
from rearm_jax.data.reading import BAD_ROWS, QUOTES, Reading
from rearm_jax.data.splitting import METHODS
from rearm_jax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to prepare; the command line's options, with their names and meanings (see `--help`)."""

    interactions: Sequence[str]
    out: str
    user_column: str | None = None
    item_column: str | None = None
    rating_column: str | None = None
    time_column: str | None = None
    min_rating: float | None = None
    duplicates: str = "first"
    k_core: int = 1
    split: str = "random"
    ratios: tuple[int, int, int] | None = None
    seed: int = 0
    items: Sequence[str] = ()
    item_id_column: str | None = None
    name_column: Sequence[str] = ()
    text: Sequence[tuple[str, Sequence[str]]] = ()
    images: str | None = None
    features: Sequence[tuple[str, str]] = ()
    feature_ids: Sequence[tuple[str, str]] = ()
    text_model: str = TEXT_MODEL
    image_model: str = IMAGE_MODEL
    batch_size: int = 64
    device: str | None = None
    cache: str = CACHE_DIR
    overwrite: bool = False
    interactions_header: Sequence[str] | None = None
    items_header: Sequence[str] | None = None
    quote: Sequence[tuple[str, str]] = ()
    encoding: str | None = None
    bad_rows: str = "refuse"
    bad_rows_limit: float = 0.01

    def reading_interactions(self) -> Reading:
        """How the tables of --interactions are read."""
        return self._reading(self.interactions_header, "--interactions_header")

    def reading_items(self) -> Reading:
        """How those of --items are."""
        return self._reading(self.items_header, "--items_header")

    def _reading(self, names: Sequence[str] | None, flag: str) -> Reading:
        return Reading(names, flag, self.quote, self.encoding, self.bad_rows, self.bad_rows_limit)


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """The settings of a command line; None: this process's. Ends the process where argparse does.

    Names of options may have hyphens for underscores: --k-core for --k_core.
    """
    return Settings(**vars(_parser().parse_args(map(_underscored, sys.argv[1:] if arguments is None else arguments))))


def check(settings: Settings) -> tuple[str, ...]:
    """Refuses settings that cannot be, before anything is read; returns the names of the modalities.

    Raises:
        ConfigError: settings do not go together, a package is missing, or `out` is there.
        DataError: an input is not there.
    """
    if not settings.interactions:
        raise ConfigError("--interactions names no file")
    if settings.k_core < 1:
        raise ConfigError(f"--k_core is {settings.k_core}, and must be at least 1 (which keeps everything)")
    if settings.min_rating is not None and not math.isfinite(settings.min_rating):
        raise ConfigError(f"--min_rating is {settings.min_rating}, and must be a finite number")
    if settings.seed < 0 or settings.batch_size < 1:
        raise ConfigError(f"--seed is {settings.seed}, --batch_size {settings.batch_size}: from 0 and from 1 on")
    if settings.split not in METHODS or settings.duplicates not in ("first", "last", "refuse"):
        raise ConfigError(f"--split is {settings.split!r}, --duplicates {settings.duplicates!r}: see --help")
    if settings.ratios is not None and settings.split == "leave-one-out":
        raise ConfigError("--ratios says nothing about --split leave-one-out: leave it out")
    if settings.ratios is not None and (len(settings.ratios) != 3 or not all(0 < r <= 1000 for r in settings.ratios)):
        raise ConfigError(f"--ratios is {settings.ratios}: three whole numbers from 1 to 1000, such as 8:1:1")
    if (settings.text or settings.name_column) and not settings.items:
        raise ConfigError("--text and --name_column name columns of a table of items: give it with --items")
    modalities = [name for name, _ in (*settings.text, *settings.features)] + ["image"] * (settings.images is not None)
    if not modalities:
        raise ConfigError("no features: give --text, --images or --features; the model needs one modality at least")
    check_modalities(modalities)
    if len(dict(settings.feature_ids)) < len(settings.feature_ids):
        raise ConfigError("--feature_ids: every modality may be named once only")
    if unknown := {name for name, _ in settings.feature_ids} - {name for name, _ in settings.features}:
        raise ConfigError(f"--feature_ids {', '.join(sorted(unknown))}: there is no --features of that modality")
    for name, path in settings.features:
        if path.endswith(".npy") != (name in dict(settings.feature_ids)):
            raise ConfigError(
                f"--features {name}={path}: .npy goes with --feature_ids {name}=FILE.npy, Parquet without"
            )
    features, feature_ids = dict(settings.features), dict(settings.feature_ids)
    for path in (*settings.interactions, *settings.items, *features.values(), *feature_ids.values()):
        if not os.path.isfile(path):
            raise DataError(f"{path}: there is no such file")
    if settings.images is not None and not os.path.isdir(settings.images):
        raise DataError(f"{settings.images}: cannot be read as a folder of pictures (there is no such folder)")
    _check_reading(settings)
    if settings.text or settings.images is not None:
        check_encoder_installed(pictures=settings.images is not None)
    check_out(settings.out, settings.overwrite)
    return tuple(modalities)


def _check_reading(settings: Settings) -> None:
    for file, mode in settings.quote:
        if mode not in QUOTES:
            raise ConfigError(f"--quote is {mode!r}: one of {', '.join(QUOTES)}, or FILE=one of them")
        if file and file not in (*settings.interactions, *settings.items):
            raise ConfigError(f"--quote {file}={mode}: neither --interactions nor --items names that file")
    if settings.encoding is not None:
        try:
            "".encode(settings.encoding)  # codecs that make no text, such as base64, are refused here too
        except LookupError as error:
            raise ConfigError(f"--encoding: {error}; such as utf-16, cp1252, latin-1, shift_jis") from error
    if settings.bad_rows not in BAD_ROWS or not 0 <= settings.bad_rows_limit <= 1:
        raise ConfigError(
            f"--bad_rows is {settings.bad_rows!r}, --bad_rows_limit {settings.bad_rows_limit}: refuse or skip, and a "
            "share from 0 to 1"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rearm_jax.data.prepare",
        description="Makes a data folder from tables (CSV, TSV, JSON lines, Parquet), texts and pictures.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--interactions",
        action="extend",
        nargs="+",
        type=expanduser,
        required=True,
        metavar="FILE",
        help="who interacted with what",
    )
    add("--out", type=expanduser, required=True, metavar="DIR", help="the folder to make")
    add("--overwrite", action="store_true", help="replace a folder that this command made")
    add("--user_column", metavar="COLUMN", help="where the names of Amazon, MovieLens and RecBole are not used")
    add("--item_column", metavar="COLUMN")
    add("--rating_column", metavar="COLUMN")
    add("--time_column", metavar="COLUMN", help="numbers or dates (ISO 8601); read if the split looks at time")
    add(
        "--min_rating", type=float, metavar="R", help="drop interactions with a lower rating; the default looks at none"
    )
    add(
        "--duplicates",
        choices=("first", "last", "refuse"),
        default="first",
        help="which of a pair's rows stays, by time",
    )
    add(
        "--k_core",
        type=int,
        default=1,
        metavar="K",
        help="keep users and items with K interactions at least; default 1",
    )
    add("--split", choices=METHODS, default="random", help="default random, per user; see rearm_jax/data/splitting.py")
    add("--ratios", type=_ratios, metavar="A:B:C", help="train, validation, test; default 8:1:1")
    add("--seed", type=int, default=0, help="of the random split; default 0")
    add(
        "--interactions_header",
        type=_columns,
        metavar="COLUMN,COLUMN,...",
        help="names of the columns of --interactions, whose first line names none: it then counts as a row",
    )
    add("--items_header", type=_columns, metavar="COLUMN,...", help="the same for --items")
    add(
        "--quote",
        action="append",
        type=_quote,
        default=[],
        metavar="[FILE=]MODE",
        help="what quotes mean in text tables: none (nothing), double (RFC 4180), backslash; the default looks",
    )
    add("--encoding", metavar="NAME", help="of text files that are not UTF-8, such as latin-1")
    add(
        "--bad_rows",
        choices=BAD_ROWS,
        default="refuse",
        help="what becomes of lines that cannot be read; default refuse",
    )
    add(
        "--bad_rows_limit",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="the most of a file's records that --bad_rows skip leaves out; default 0.01",
    )
    add(
        "--items",
        action="extend",
        nargs="+",
        type=expanduser,
        default=[],
        metavar="FILE",
        help="tables of items, with all the columns named below",
    )
    add("--item_id_column", metavar="COLUMN", help="of --items, and of Parquet in --features")
    add("--name_column", type=_columns, default=(), metavar="COLUMN[,COLUMN]", help="names for people: title (year)")
    add(
        "--text",
        action="append",
        type=_text,
        default=[],
        metavar="[MODALITY=]COLUMN[,COLUMN]",
        help="encode these columns of --items as one modality, named text if not named; may be repeated",
    )
    add(
        "--images",
        type=expanduser,
        metavar="DIR",
        help="encode pictures, named by item id (.jpg, .png, .webp), as modality image",
    )
    add("--features", action="append", type=_pair, default=[], metavar="MODALITY=FILE", help=".npy or Parquet")
    add("--feature_ids", action="append", type=_pair, default=[], metavar="MODALITY=FILE", help="item ids of a .npy")
    add(
        "--text_model",
        type=expanduser,
        default=TEXT_MODEL,
        metavar="MODEL",
        help="on the Hugging Face hub, or a folder; %(default)s",
    )
    add(
        "--image_model",
        type=expanduser,
        default=IMAGE_MODEL,
        metavar="MODEL",
        help="on the Hugging Face hub, or a folder; %(default)s",
    )
    add("--batch_size", type=int, default=64, help="of the encoders; default 64")
    add("--device", help="of the encoders: cpu, cuda, ...; default: the accelerator if there is one")
    add(
        "--cache",
        type=expanduser,
        default=CACHE_DIR,
        metavar="DIR",
        help="where encoded vectors are kept; default %(default)s",
    )
    return parser


def _underscored(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


def _ratios(argument: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in argument.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is no whole numbers with colons between, such as 8:1:1"
        ) from None


def _columns(argument: str) -> tuple[str, ...]:
    columns = tuple(argument.split(","))
    if not all(columns):
        raise argparse.ArgumentTypeError(f"{argument!r} names an empty column")
    return columns


def _quote(argument: str) -> tuple[str, str]:
    file, _, mode = argument.rpartition("=")
    return file, mode


def _text(argument: str) -> tuple[str, tuple[str, ...]]:
    modality, equals, columns = argument.partition("=")
    return (modality, _columns(columns)) if equals else ("text", _columns(argument))


def _pair(argument: str) -> tuple[str, str]:
    modality, _, file = argument.partition("=")
    if not (modality and file):
        raise argparse.ArgumentTypeError(f"{argument!r} is not MODALITY=FILE")
    return modality, expanduser(file)  # a shell leaves a "~" behind an equals sign as it is
