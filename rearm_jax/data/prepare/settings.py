"""What is to be prepared, and which of these settings go together."""

import dataclasses
import math
import os
from collections.abc import Sequence

from rearm_jax.data.dataset import check_modalities
from rearm_jax.data.encode import CACHE_DIR, IMAGE_MODEL, TEXT_MODEL, check_encoder_installed
from rearm_jax.data.folder import check_out
from rearm_jax.data.prepare.frames import Frame
from rearm_jax.data.prepare.reading import BAD_ROWS, QUOTES, Reading
from rearm_jax.data.prepare.splitting import METHODS
from rearm_jax.errors import ConfigError, DataError

CATALOGUES = ("interactions", "all")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to prepare; the command line's flags, with their names and meanings (see `--help`)."""

    interactions: Sequence[str | Frame]
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
    items: Sequence[str | Frame] = ()
    catalogue: str = "interactions"
    item_id_column: str | None = None
    name_column: Sequence[str] = ()
    text: Sequence[tuple[str, Sequence[str]]] = ()
    category: Sequence[tuple[str, Sequence[str]]] = ()
    category_separator: str | None = None
    number: Sequence[tuple[str, Sequence[str]]] = ()
    quantiles: int = 0
    images: str | None = None
    features: Sequence[tuple[str, str | Frame]] = ()
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


def check(settings: Settings) -> tuple[str, ...]:
    """Refuses settings that cannot be, before anything is read; returns the names of the modalities.

    Raises:
        ConfigError: settings do not go together, a package is missing, or `out` is there.
        DataError: an input is not there.
    """
    if not settings.interactions:
        raise ConfigError("--interactions names no file")
    modalities = check_choices(settings)
    check_out(settings.out, settings.overwrite)
    return modalities


def check_choices(settings: Settings) -> tuple[str, ...]:
    """`check`, but for where the folder goes."""
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
    ratios = (8, 1, 1) if settings.ratios is None else settings.ratios
    if len(ratios) != 3 or not all(0 <= r <= 1000 for r in ratios) or not ratios[0]:
        raise ConfigError(f"--ratios is {ratios}: three whole numbers up to 1000, such as 8:1:1, the first not 0")
    of_columns = (*settings.text, *settings.category, *settings.number)
    if (of_columns or settings.name_column) and not settings.items:
        raise ConfigError(
            "--text, --category, --number and --name_column name columns of a table of items: give it with --items"
        )
    if settings.catalogue not in CATALOGUES or (settings.catalogue == "all" and not settings.items):
        raise ConfigError(
            f"--catalogue is {settings.catalogue!r}: one of {', '.join(CATALOGUES)}; all keeps what --items lists"
        )
    modalities = [name for name, _ in (*of_columns, *settings.features)] + ["image"] * (settings.images is not None)
    if not modalities:
        raise ConfigError(
            "no features: give --text, --category, --number, --images or --features; the model needs one modality at "
            "least"
        )
    check_modalities(modalities)
    if settings.category_separator == "" or settings.quantiles < 0 or settings.quantiles == 1:
        raise ConfigError(
            f"--category_separator is {settings.category_separator!r}, --quantiles {settings.quantiles}: some "
            "text, and at least 2 (or 0 for none)"
        )
    if len(dict(settings.feature_ids)) < len(settings.feature_ids):
        raise ConfigError("--feature_ids: every modality may be named once only")
    if unknown := {name for name, _ in settings.feature_ids} - {name for name, _ in settings.features}:
        raise ConfigError(f"--feature_ids {', '.join(sorted(unknown))}: there is no --features of that modality")
    for name, path in settings.features:
        if str(path).endswith(".npy") != (name in dict(settings.feature_ids)):
            raise ConfigError(
                f"--features {name}={path}: .npy goes with --feature_ids {name}=FILE.npy, Parquet without"
            )
    features, feature_ids = dict(settings.features), dict(settings.feature_ids)
    for path in (*settings.interactions, *settings.items, *features.values(), *feature_ids.values()):
        if not isinstance(path, Frame) and not os.path.isfile(path):
            raise DataError(f"{path}: there is no such file")
    if settings.images is not None and not os.path.isdir(settings.images):
        raise DataError(f"{settings.images}: cannot be read as a folder of pictures (there is no such folder)")
    _check_reading(settings)
    if settings.text or settings.images is not None:
        check_encoder_installed(pictures=settings.images is not None)
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
