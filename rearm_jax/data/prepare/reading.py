"""How tables are read (the options), and what became of the lines of each (the account)."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rearm_jax.errors import DataError, shown

QUOTES = ("none", "double", "backslash")
BAD_ROWS = ("refuse", "skip")
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
MEND = "Mend the line, or leave such lines out and have them counted with bad_rows=skip"
_EXAMPLES = 3  # refused records shown of each reason


class TextError(DataError):
    """A text table cannot be read as it stands; the message names the options of `prepare` that say how else."""


@contextlib.contextmanager
def without_options() -> Iterator[None]:
    """For tables that are read where there are no such options: a TextError says so."""
    try:
        yield
    except TextError as error:
        raise DataError(
            f"{error}. (These are options of rearm_jax.data.prepare, and there are none here: write the table as "
            "Parquet, or as CSV in UTF-8 with a line of names)"
        ) from error


@dataclasses.dataclass(frozen=True)
class Refused:
    """A record that cannot be read.

    Attributes:
        line: its first line, counted from 1.
        num_lines: how many lines it has.
        reason: a kind, the same words for each of the kind.
        found: what is wrong with this one, and the line itself.
    """

    line: int
    num_lines: int
    reason: str
    found: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.found}"


@dataclasses.dataclass(frozen=True)
class Account:
    """Where the lines of a text file went: lines == header + blank + read + those of `refused`.

    Attributes:
        path: the file.
        lines, header, blank, read: numbers of physical lines, as an editor counts them; `read` are those of records
            that were read, which may have several each.
        records: that were read.
        refused: the records that were left out.
        quote: what quotes mean in the file; "" in JSON lines.
        num_replaced: halves of surrogate pairs, which no text can hold, read as U+FFFD.
    """

    path: str
    lines: int
    header: int
    blank: int
    read: int
    records: int
    refused: Sequence[Refused] = ()
    quote: str = ""
    num_replaced: int = 0

    def as_dict(self) -> dict[str, object]:
        """For prepare.json."""
        counts = {"lines": self.lines, "header": self.header, "blank": self.blank, "read": self.read}
        counts["refused"] = sum(record.num_lines for record in self.refused)
        reasons = {reason: len(records) for reason, records in by_reason(self.refused).items()}
        return {**counts, "records": self.records, "refused records": reasons, "quote": self.quote}

    def __str__(self) -> str:
        refused = sum(record.num_lines for record in self.refused)
        text = (
            f"{self.path}: {self.lines:,} lines = {self.header:,} header + {self.blank:,} blank + {self.read:,} read "
            f"({self.records:,} records) + {refused:,} refused"
        )
        for reason, records in by_reason(self.refused).items():
            text += f"\n  refused, {reason}: {len(records):,}"
            text += "".join(f"\n    {record}" for record in records[:_EXAMPLES])
        if self.num_replaced:
            text += f"\n  halves of surrogate pairs, read as U+FFFD: {self.num_replaced:,}"
        return text


class Found(NamedTuple):
    """A text file that was opened.

    Attributes:
        account: of its lines.
        line_of: from the number of a record that is read, from 0, to its first line, from 1.
        line_at: the line of a number, from 1, as the file has it.
        explain: raises the DataError of a record that polars could not read; None: all has been looked at.
        held: what must live as long as the table is read, such as a temporary copy.
    """

    account: Account
    line_of: Callable[[int], int]
    line_at: Callable[[int], bytes]
    explain: Callable[[], None] | None
    held: object


@dataclasses.dataclass
class Reading:
    """How the text tables of one kind (interactions, or items) are read, and what was found in them.

    Attributes:
        names: of the columns, where the first line holds none.
        names_option: what gives them, for messages.
        quotes: (file, one of QUOTES); the file "" stands for all others. What is not given, the file must show.
        encoding: of files that are not UTF-8.
        bad_rows: what happens to records that cannot be read, one of BAD_ROWS.
        bad_rows_limit: the greatest share of a file's records that may be skipped.
        found: path -> what was found, of the text files read so far.
    """

    names: Sequence[str] | None = None
    names_option: str = "interactions_header"
    quotes: Sequence[tuple[str, str]] = ()
    encoding: str | None = None
    bad_rows: str = "refuse"
    bad_rows_limit: float = 0.01
    found: dict[str, Found] = dataclasses.field(default_factory=dict)

    def quote_of(self, path: str) -> str | None:
        given = dict(self.quotes)
        return given.get(path, given.get(""))

    def over_limit(self) -> str:
        return f"More than {self.bad_rows_limit:.2%} of the records are so (bad_rows_limit)"

    def is_object(self, path: str | os.PathLike) -> bool:
        """Whether a file has one object a line."""
        found = self.found.get(os.fspath(path))
        return found is not None and not found.account.quote

    def where(self, path: str | os.PathLike, row: int) -> str:
        """The place of a row, counted from 1, in words: its line if the file is text."""
        found = self.found.get(os.fspath(path))
        return f"{path}, row {row}" if found is None else f"{path}, line {found.line_of(row - 1)}"

    def line(self, path: str | os.PathLike, row: int) -> str:
        """The line of a row, counted from 1, to end a message with; "" if the file is no text."""
        found = self.found.get(os.fspath(path))
        if found is None:
            return ""
        text = found.line_at(found.line_of(row - 1)).decode("utf-8", "backslashreplace").rstrip("\r\n")
        return f". The line is {shown(text)}"


def by_reason(refused: Sequence[Refused]) -> dict[str, list[Refused]]:
    kinds: dict[str, list[Refused]] = {}
    for record in refused:
        kinds.setdefault(record.reason, []).append(record)
    return kinds
