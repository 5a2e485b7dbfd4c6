"""Ids of users and items as text. Blanks around them are cut; empty ones are refused, and so is one id in two
spellings, such as 12 beside 12.0: one user becomes two, and a join finds nothing."""

import json
from collections.abc import Callable

import polars as pl
from absl import logging

from rearm_jax.errors import DataError

# Unicode's blanks, and those without width.
_BLANKS = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000\u200b\u2060\ufeff"
)
_WHOLE_FLOAT = r"^([-+]?[0-9]+)\.0+$"
_R_FLOAT = r"^[1-9](?:\.[0-9]+)?e\+(?:0[0-9]|1[0-5])$"  # 100000 is 1e+05 in the files of R
_QUOTED = r'^"(.+)"$'
_TWO_SPELLINGS = rf"{_WHOLE_FLOAT}|{_R_FLOAT}|{_QUOTED}|[^\x00-\x7f]"  # what may have another
_MAX_LENGTH = 256  # the files of ids have the width of the longest
_MISSING = ("nan", "<na>", "nat", r"\n", "none", "null", "na", "n/a", "#n/a", "undefined")  # in lower case


def cut_blanks(text: pl.Expr) -> pl.Expr:
    """Text without blanks around it; null where nothing is left."""
    cut = text.str.strip_chars(_BLANKS)
    return pl.when(cut != "").then(cut)


def check_ids(ids: pl.Series, where: str, quotes: bool = True, place: Callable[[str], str] | None = None) -> None:
    """Raises DataError if one of the different ids of a column is too long, holds a NUL, or has two spellings.

    Args:
        ids: text, without nulls.
        where: the files, for messages.
        quotes, place: as of `refuse_two_spellings`.
    """
    for name, found in (
        (f"has more than {_MAX_LENGTH} characters", ids.filter(ids.str.len_chars() > _MAX_LENGTH)),
        ("holds a NUL character", ids.filter(ids.str.contains("\0", literal=True))),
    ):
        if len(found):
            where = where if place is None else place(found[0])
            raise DataError(f"{where}: the id {found[0][:80]!r} {name}; is it the right column?")
    refuse_two_spellings(ids, where, ids, "the same column", quotes, place)


def refuse_two_spellings(
    ids: pl.Series,
    where: str,
    known: pl.Series,
    known_where: str,
    quotes: bool = True,
    place: Callable[[str], str] | None = None,
) -> None:
    """Raises DataError if an id is spelt in one way here and in another there: 12.0 or 1.2e+01 (of R) and 12, with and
    without quotes around it, with an accent as a character of its own and in one with the letter.

    Args:
        ids: text, without nulls, found in the place that `where` names for the message.
        known: text, without nulls, of `known_where`; may be `ids` again.
        quotes: whether quotes around an id are a spelling; not where somebody said that they are characters.
        place: gives file and line where an id of either first stands, in the place of `where` and `known_where`.
    """
    if not (ids.str.contains(_TWO_SPELLINGS).any() or known.str.contains(_TWO_SPELLINGS).any()):
        return
    spelt, known_spelt = (
        pl.DataFrame({"id": values}).with_columns(plain=_plain(pl.col("id"), quotes)) for values in (ids, known)
    )
    pairs = spelt.join(known_spelt, on="plain", maintain_order="left_right").filter(pl.col("id") != pl.col("id_right"))
    if not len(pairs):
        return
    one, other = pairs["id"][0], pairs["id_right"][0]
    if place is not None:
        where, known_where = place(one), place(other)
    if {one, other} & {f'"{one}"', f'"{other}"'}:
        raise DataError(
            f"{where}: the id {one!r} is there, and {other!r} in {known_where}: one id with and without quotes. Write "
            "the ids alike (of text files, quote=none says that quotes are characters)"
        )
    if not (one.isascii() and other.isascii()):
        raise DataError(
            f"{where}: the id {one!r} ({one!a}) is there, and {other!r} ({other!a}) in {known_where}: one "
            "text in two spellings of Unicode. Write the ids alike (unicodedata.normalize('NFC', id) does it)"
        )
    raise DataError(
        f"{where}: the id {one!r} is there, and {other!r} in {known_where}: one number in two spellings. Write the ids "
        "alike (pandas makes floats of whole numbers where a value is missing: .astype('Int64') undoes it)"
    )


def _plain(ids: pl.Expr, quotes: bool) -> pl.Expr:
    """The one spelling of ids that have several."""
    plain = ids.str.normalize("NFC").str.replace(_WHOLE_FLOAT, "$1")
    if quotes:
        plain = plain.str.replace(_QUOTED, "$1")
    of_r = pl.when(ids.str.contains(_R_FLOAT)).then(ids).cast(pl.Float64)
    return pl.when(of_r == of_r.floor()).then(of_r.cast(pl.Int64).cast(pl.String)).otherwise(plain)


def missing_words(ids: pl.Series, where: str) -> list[str]:
    """Those of the ids that programs write for a missing one, if the others are codes: most of them have a digit.
    Among names None may be one, and a warning says that it is there.

    Args:
        ids: different ones, text without nulls.
        where: their place, for the warning.
    """
    words = ids.filter(ids.str.to_lowercase().is_in(_MISSING)).to_list()
    if words and 2 * ids.str.contains("[0-9]").sum() >= len(ids) - len(words):
        return words
    for word in words:
        logging.warning("%s: %r is an id; if it stands for a missing one, remove its rows", where, word)
    return []


def nested_ids(ids: pl.Series) -> list[str]:
    """Those that are a list or an object, written as JSON."""
    return [name for name in ids.filter(ids.str.contains(r"(?s)^(?:\[.*\]|\{.*\})$")) if _is_json(name)]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
