"""Ids of users and items as text. Blanks around them are cut, empty ones are refused, and so is 12 beside 12.0: where a
program made floats of whole numbers, one user becomes two, and a join finds nothing."""

import polars as pl

from rearm_jax.errors import DataError

_WHOLE_FLOAT = r"^([-+]?[0-9]+)\.0+$"


def cut_blanks(text: pl.Expr) -> pl.Expr:
    """Text without blanks around it; null where nothing is left."""
    cut = text.str.strip_chars()
    return pl.when(cut != "").then(cut)


def refuse_two_spellings(ids: pl.Series, where: str, known: pl.Series, known_where: str) -> None:
    """Raises DataError if an id is spelt as a float in one place and as a whole number in the other: 12.0 and 12.

    Args:
        ids: text, without nulls, found in the place that `where` names for the message.
        known: text, without nulls, of `known_where`; may be `ids` again.
    """
    if not (ids.str.contains(_WHOLE_FLOAT).any() or known.str.contains(_WHOLE_FLOAT).any()):
        return
    spelt, known_spelt = (
        pl.DataFrame({"id": values}).with_columns(number=pl.col("id").str.replace(_WHOLE_FLOAT, "$1"))
        for values in (ids, known)
    )
    pairs = spelt.join(known_spelt, on="number", maintain_order="left_right").filter(pl.col("id") != pl.col("id_right"))
    if len(pairs):
        one, other = pairs["id"][0], pairs["id_right"][0]
        raise DataError(
            f"{where}: the id {one!r} is there, and {other!r} in {known_where}: one number in two spellings. Write the "
            "ids alike (pandas makes floats of whole numbers where a value is missing: .astype('Int64') undoes it)"
        )
