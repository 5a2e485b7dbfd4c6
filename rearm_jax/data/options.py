"""The flags of the command lines that get and make data, rearm_jax.data.download, prepare and encode, and of
rearm_jax.compare."""

import argparse
from collections.abc import Callable, Sequence
from os.path import expanduser

from rearm_jax.data.encode import CACHE_DIR, IMAGE_MODEL, TEXT_MODEL
from rearm_jax.program import Parser


def download_parser(names: Sequence[str]) -> Parser:
    """Args: names of the data sets."""
    parser = Parser("python -m rearm_jax.data.download", "Downloads a data set.")
    parser.add_argument("name", choices=names)
    parser.add_argument("--root", type=expanduser, default="data", help="where the folder NAME shall be; default data")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of the repository; default main")
    return parser


def compare_parser() -> Parser:
    """Of rearm_jax.compare."""
    parser = Parser("python -m rearm_jax.compare", "Compares models: settings by validation, then seeds on test.")
    add = parser.add_argument
    add(
        "--spec",
        type=expanduser,
        metavar="FILE",
        help="what is compared: a file of Python with a get_spec(), or the name of a shipped one",
    )
    add(
        "--workdir",
        type=expanduser,
        required=True,
        action="append",
        metavar="FOLDER",
        help="where the runs are kept; the same command goes on. With --mode=table it may be given several times",
    )
    add("--mode", choices=("run", "table"), default="run", help="table: anew from the results of workdirs; default run")
    add("--out", type=expanduser, metavar="FOLDER", help="--mode=table: where the tables go; default the first workdir")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that share this machine's cores; 0: only the tables, of what there is; default 1",
    )
    add("--worker", action="store_true", help="only works at the runs, beside others in the same workdir")
    add("--dry_run", action="store_true", help="prints what will run, and how long and large it may become")
    add(
        "--external",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="lists of another toolkit as a row: Parquet with user, item, rank; NAME@DATA=FILE with several data sets",
    )
    add("--timing", metavar="DATA/ROW", help="times one row; the comparison calls it so, in a process of its own")
    return parser


def prepare_parser(splits: Sequence[str], bad_rows: Sequence[str], catalogues: Sequence[str]) -> Parser:
    """Of the fields of prepare.Settings. Args: the choices of --split, of --bad_rows and of --catalogue."""
    parser = Parser(
        "python -m rearm_jax.data.prepare",
        "Makes a data folder from tables (CSV, TSV, JSON lines, Parquet), texts and pictures.",
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
    add(
        "--split",
        choices=splits,
        default="random",
        help="default random, per user; see data/prepare/splitting.py",
    )
    add("--ratios", type=_ratios, metavar="A:B:C", help="train, validation, test; default 8:1:1; 1:0:0: train alone")
    add("--seed", type=int, default=0, help="of the random split; default 0")
    add(
        "--interactions_header",
        type=_columns,
        metavar="COLUMN,COLUMN,...",
        help="names of the columns of --interactions, whose first line names none: it then counts as a row",
    )
    _add_items(parser, bad_rows)
    add(
        "--catalogue",
        choices=catalogues,
        default="interactions",
        help="all: keeps items of --items without interactions, too, as new items; default interactions",
    )
    add("--name_column", type=_columns, default=(), metavar="COLUMN[,COLUMN]", help="names for people: title (year)")
    return parser


def encode_parser(bad_rows: Sequence[str]) -> Parser:
    """Of rearm_jax.data.encode. Args: the choices of --bad_rows."""
    parser = Parser("python -m rearm_jax.data.encode", "Adds features of the items to a folder of data.")
    add = parser.add_argument
    add("--root", type=expanduser, required=True, metavar="DIR", help="the folder of data")
    add("--in_order", action="store_true", help="row i of --items is item i of the folder: no ids are read")
    add("--overwrite", action="store_true", help="replace features of that name")
    _add_items(parser, bad_rows)
    return parser


def _add_items(parser: Parser, bad_rows: Sequence[str]) -> None:
    """Flags of tables of items, how they are read, and features."""
    add = parser.add_argument
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
    add(
        "--items_header",
        type=_columns,
        metavar="COLUMN,...",
        help="names of the columns of --items",
    )
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
        choices=bad_rows,
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
        "--text",
        action="append",
        type=_named_columns("text"),
        default=[],
        metavar="[MODALITY=]COLUMN[,COLUMN]",
        help="encode these columns of --items as one modality, named text if not named; may be repeated",
    )
    add(
        "--category",
        action="append",
        type=_named_columns("category"),
        default=[],
        metavar="[MODALITY=]COLUMN[,COLUMN]",
        help="columns of --items as 0 and 1, one for each value, named category if not named; may be repeated",
    )
    add("--category_separator", metavar="TEXT", help="between several values of --category in one text")
    add(
        "--number",
        action="append",
        type=_named_columns("number"),
        default=[],
        metavar="[MODALITY=]COLUMN[,COLUMN]",
        help="columns of numbers of --items, mean 0 and deviation 1, named number if not named; may be repeated",
    )
    add("--quantiles", type=int, default=0, metavar="N", help="--number as 0 and 1: in which of N equal parts it is")
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


def _named_columns(default: str) -> Callable[[str], tuple[str, tuple[str, ...]]]:
    def parse(argument: str) -> tuple[str, tuple[str, ...]]:
        modality, equals, columns = argument.partition("=")
        return (modality, _columns(columns)) if equals else (default, _columns(argument))

    return parse


def _pair(argument: str) -> tuple[str, str]:
    modality, _, file = argument.partition("=")
    if not (modality and file):
        raise argparse.ArgumentTypeError(f"{argument!r} is not MODALITY=FILE")
    return modality, expanduser(file)  # a shell leaves a "~" behind an equals sign as it is
