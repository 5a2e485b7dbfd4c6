"""table.md and table.tex: a table a data set, and all pairs in an appendix."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rearm_jax.compare import cells
from rearm_jax.compare.cells import DAGGER, DASH, MINUS, Cells
from rearm_jax.compare.summary import SPLITS, Summary
from rearm_jax.files import whole_file

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    DASH: "--",
    DAGGER: r"\textdagger{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
}


def write_tables(folder: str | os.PathLike, summary: Summary) -> None:
    """Writes table.md and table.tex into a folder, each whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    for name, text in (("table.md", markdown(summary)), ("table.tex", latex(summary))):
        with whole_file(Path(folder, name)) as temporary:
            temporary.write_text(text, "utf-8")


def markdown(summary: Summary) -> str:
    """The tables in GitHub's Markdown, in columns of the same width for who reads them as they are."""
    parts = ["# Comparison", *map(_markdown_text, made_with(summary)[:1])]
    for table in summary.tables:
        parts += [f"## {_markdown_text(table.data)}", f"{cells.facts(table)}."]
        parts += [
            _markdown_table(part) for part in (cells.quality(table, summary.about["reference"]), cells.cost(table))
        ]
        parts += [f"- {_markdown_text(note)}" for note in cells.notes(table, summary)]
    if any(table.pairs for table in summary.tables):
        parts += ["## Appendix: all pairs", _markdown_text(PAIRS)]
        parts += [
            f"### {_markdown_text(t.data)}\n\n{_markdown_table(cells.pairs(t))}" for t in summary.tables if t.pairs
        ]
    parts += ["## Made with", "\n".join(f"    {line}" for line in made_with(summary)[1:])]
    return "\n\n".join(parts) + "\n"


def latex(summary: Summary) -> str:
    """The tables as LaTeX, for \\input into a document that has booktabs; all pairs as a table of its own, too."""
    parts = ["\n".join(f"% {line}" for line in ("\\usepackage{booktabs}", *made_with(summary)))]
    for number, table in enumerate(summary.tables):
        label, said = f"tab:compare-{number}", " ".join(cells.notes(table, summary))
        found = cells.quality(table, summary.about["reference"])
        parts.append(_latex_table(found, f"{found.caption}. {said}", label))
        parts.append(_latex_table(cells.cost(table), cells.cost(table).caption + ".", f"{label}-cost"))
    for number, table in enumerate(summary.tables):
        if table.pairs:
            parts.append(
                _latex_table(cells.pairs(table), f"{table.data}: all pairs. {PAIRS}", f"tab:compare-{number}-pairs")
            )
    return "\n\n".join(parts) + "\n"


PAIRS = (
    "Difference, interval and p as in the tables above, p not adjusted for the number of pairs. Paired t and Wilcoxon "
    "(Pratt) are tests of the users' means over the seeds that were run: they know nothing of other seeds."
)


def made_with(summary: Summary) -> list[str]:
    """What was compared, then command and versions of each workdir, and the data: a line each."""
    about = summary.about
    metric, select_by = cells.title(about["metric"]), cells.title(about["select_by"])
    lines = [
        f"Compared by {metric} on {SPLITS[about['split']]}; settings were chosen by {select_by} on validation. The "
        f"reference is {about['reference']}."
    ]
    for source in about["sources"]:
        lines.append(f"{source['command']}")
        lines.append(
            f"rearm_jax {source['version']}, numerics {about['numerics']}; {source['tries']} settings tried, "
            f"{source['seeds']} seeds"
        )
    lines += [f"{table.data}: content {table.facts['content_hash']}" for table in summary.tables]
    return [" ".join(line.split()) for line in lines]


def _markdown_text(text: str) -> str:
    # Inside of a word an underscore is one, and < before a number is no tag.
    special = r"[\\`*\[\]|~&]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w)"
    return re.sub(special, lambda found: f"\\{found[0]}", " ".join(text.split()))


def _markdown_table(table: Cells) -> str:
    header, *rows = ([_markdown_text(cell) for cell in row] for row in (table.header, *table.rows))
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_markdown_line(row, widths) for row in (header, rule, *rows))


def _markdown_line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"


def _latex_text(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


def _latex_table(table: Cells, caption: str, label: str) -> str:
    header, *rows = (" & ".join(map(_latex_text, row)) + r" \\" for row in (table.header, *table.rows))
    # After the \\ of the line above, [ and * would be taken for its arguments.
    rows = [f"{{}}{row}" if row.startswith(("[", "*")) else row for row in rows]
    lines = [
        r"\begin{table*}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_latex_text(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        header,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines)
