"""report.html of a comparison, for people: one file that needs nothing else."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rearm_jax.compare import cells, figures
from rearm_jax.compare.cells import DASH, Cells
from rearm_jax.compare.summary import SPLITS, Row, Summary, Table
from rearm_jax.compare.tables import PAIRS, made_with
from rearm_jax.files import whole_file
from rearm_jax.inference.extras import import_extra
from rearm_jax.report.page import render

_RUNS = {"search": "setting", "final": "final run", "timing": "timed run", "external": "lists"}  # before its number


def check_report() -> None:
    """Raises ConfigError if a package of the extra `report` is missing; to be asked before any run."""
    for package in ("jinja2", "matplotlib"):
        import_extra(package, "report", "the report")


def write_report(folder: str | os.PathLike, summary: Summary) -> None:
    """Writes report.html into a folder, whole or not at all.

    Raises:
        ConfigError: a package of the extra `report` is missing.
        OSError: it cannot be written.
    """
    check_report()
    with whole_file(Path(folder, "report.html")) as temporary:
        temporary.write_text(page(summary), "utf-8")


def page(summary: Summary) -> str:
    """The whole page."""
    about, tables = summary.about, summary.tables
    reference, metric = about["reference"], cells.title(about["metric"])
    select_by = cells.title(about["select_by"])
    intro, *made = made_with(summary)
    return render(
        "comparison.html",
        __package__,
        title=f"{', '.join(table.data for table in tables)}: {len(about['rows'])} models compared",
        facts=[intro, *(f"{table.data}: {cells.facts(table)}." for table in tables)],
        findings=[_findings(table, reference) for table in tables],
        reference=reference,
        split=SPLITS[about["split"]],
        metric=metric,
        select_by=select_by,
        tables=[(t.data, cells.quality(t, reference), cells.cost(t), cells.notes(t, summary)) for t in tables],
        intervals=figures.intervals(tables, reference),
        tuning=figures.tuning(tables, about["select_by"]),
        time=figures.time(tables),
        slices=[part for table in tables for part in (_by_history(table), _by_popularity(table)) if part],
        chosen=[_chosen(table, select_by) for table in tables],
        failures=[
            (data, row, f"{_RUNS[kind]} {number + 1}", error) for data, row, kind, number, error in summary.failures
        ],
        pairs=[cells.pairs(table) for table in tables if table.pairs],
        pairs_note=PAIRS,
        made=made,
    )


def _findings(table: Table, reference: str) -> str:
    """What a data set says, in a sentence."""
    names: dict[str, list[str]] = {}
    for row in table.rows:
        names.setdefault("open" if row.compared is None else row.verdict, []).append(row.name)
    said = {
        "better": f"better than {reference}: ",
        "tie": f"no difference to {reference} found: ",
        "worse": f"worse than {reference}: ",
        "open": "no final run yet: ",
    }
    parts = [f"{said[verdict]}{', '.join(names[verdict])}" for verdict in said if verdict in names]
    return f"On {table.data}, {'; '.join(parts)}." if parts else f"On {table.data} nothing can be compared yet."


def _by_history(table: Table) -> Cells | None:
    groups = next((row.by_history for row in table.rows if row.by_history), None)
    if groups is None:
        return None
    metric, show = table.metrics[0], cells.metric_text(table)
    header = [f"{cells.span(group)} ({group['users']:,.0f} users)" for group in groups]
    rows = _sliced(table.rows, lambda row: row.by_history, len(groups), lambda group: show(group[metric]))
    return Cells(f"{table.data}: {cells.title(metric)} by train interactions of the user", ["model", *header], rows)


def _by_popularity(table: Table) -> Cells | None:
    groups = next((row.by_popularity for row in table.rows if row.by_popularity), None)
    if groups is None:
        return None
    header = [
        f"{cells.span(group)} ({group['items']:,.0f} items, {group['positives']:,.0f} to find)" for group in groups
    ]
    rows = _sliced(
        table.rows,
        lambda row: row.by_popularity,
        len(groups),
        lambda group: f"{group['found'] / group['positives']:.4f}",
    )
    return Cells(
        f"{table.data}: share found of what is to find, by train interactions of the item", ["model", *header], rows
    )


def _sliced(
    rows: Sequence[Row],
    groups: Callable[[Row], Sequence[Mapping[str, Any]]],
    num_groups: int,
    show: Callable[[Mapping[str, Any]], str],
) -> list[list[str]]:
    """A row a model, dashes where it has no final run."""
    return [[row.name, *(map(show, groups(row)) if groups(row) else [DASH] * num_groups)] for row in rows]


def _chosen(table: Table, select_by: str) -> Cells:
    rows = []
    for row in table.rows:
        if row.chosen is None:
            rows.append([row.name, DASH, DASH, DASH])
            continue
        number, settings, valid = row.chosen
        said = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
        rows.append([row.name, f"{number + 1} of {row.tried}", f"{valid:.4f}", said or "the defaults"])
    return Cells(f"{table.data}: settings chosen", ["model", "which", f"{select_by} on validation", "settings"], rows)
