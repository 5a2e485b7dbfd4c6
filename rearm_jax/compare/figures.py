"""The drawings of a comparison's report, a panel a data set."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rearm_jax.compare.cells import difference_text, title
from rearm_jax.compare.summary import Row, Table
from rearm_jax.report.drawing import (
    DASHES,
    GREEN,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    Drawing,
    colour_and,
    legend_below,
    plain_ticks,
)

_VERDICTS = {"better": (GREEN, GREEN, "^"), "tie": (MUTED, PAPER, "o"), "worse": (ORANGE, ORANGE, "v")}
_MAX_NAME = 24  # characters of a name in a drawing; tables have it whole


def intervals(tables: Sequence[Table], reference: str) -> Drawing | None:
    """Differences to the reference with their intervals; None where there are none yet."""
    shown = {table.data: [row for row in table.rows if row.verdict] for table in tables}
    most = max(map(len, shown.values()))
    return _drawing(
        "intervals",
        [table for table in tables if shown[table.data]],
        lambda table: partial(_intervals, table=table, rows=shown[table.data], reference=reference),
        lambda table: (
            f"Points with 95 % intervals on {table.data}: difference in {title(table.metrics[0])} to {reference}. "
            + " ".join(_difference(row, table) for row in shown[table.data])
        ),
        height=1.6 + 0.32 * most,
    )


def tuning(tables: Sequence[Table], select_by: str) -> Drawing | None:
    """What tuning brought: the best validation metric after each setting tried; None where nothing was tried."""
    shown = {table.data: [row for row in table.rows if np.isfinite(row.best_so_far).any()] for table in tables}
    return _drawing(
        "tuning",
        [table for table in tables if shown[table.data]],
        lambda table: partial(_tuning, table=table, rows=shown[table.data], select_by=select_by),
        lambda table: (
            f"Step lines on {table.data}: the best {title(select_by)} on validation by number of settings tried. "
            + " ".join(
                f"{row.name}: from {row.best_so_far[np.isfinite(row.best_so_far)][0]:.4f} to {row.best_so_far[-1]:.4f}."
                for row in shown[table.data]
            )
        ),
        height=3.1 + _key_height(shown.values()),
    )


def time(tables: Sequence[Table]) -> Drawing | None:
    """Quality against seconds to the best validation; None where no time was measured."""
    shown = {table.data: [row for row in table.rows if row.compared and row.seconds_to_best] for table in tables}
    return _drawing(
        "time",
        [table for table in tables if shown[table.data]],
        lambda table: partial(_time, table=table, rows=shown[table.data]),
        lambda table: (
            f"Points on {table.data}: {title(table.metrics[0])} on {table.split} by seconds to the best validation. "
            + " ".join(
                f"{row.name}: {row.compared.mean:.4f} after {row.seconds_to_best:.3g} s."
                for row in shown[table.data]
                if row.compared
            )
        ),
        height=3.1 + _key_height(shown.values()),
    )


def _drawing(
    name: str,
    tables: Sequence[Table],
    panel: Callable[[Table], Callable],
    alt: Callable[[Table], str],
    height: float,
) -> Drawing | None:
    if not tables:
        return None
    return Drawing(name, tuple(map(panel, tables)), tuple(map(alt, tables)), size=(4.3, height))


def _difference(row: Row, table: Table) -> str:
    value, interval = difference_text(row, table)
    return f"{row.name}: {value}, {interval}, {row.verdict}."


def _intervals(axes: Any, table: Table, rows: Sequence[Row], reference: str) -> None:
    axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    for place, row in enumerate(rows):
        assert row.compared is not None
        found, (colour, face, marker) = row.compared.difference, _VERDICTS[row.verdict]
        assert found is not None
        axes.plot([found.low, found.high], [place] * 2, color=colour, linewidth=1.6, solid_capstyle="round")
        axes.plot(found.value, place, marker, color=colour, markerfacecolor=face, markersize=6)
    for verdict in dict.fromkeys(row.verdict for row in rows):
        colour, face, marker = _VERDICTS[verdict]
        axes.plot([], [], marker, color=colour, markerfacecolor=face, markersize=6, label=verdict)
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.get_major_locator().set_params(nbins=5)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_title(_short(table.data), pad=8)
    axes.set(xlabel=f"{title(table.metrics[0])} minus that of {_short(reference)}")
    legend_below(axes, ncols=3)


def _tuning(axes: Any, table: Table, rows: Sequence[Row], select_by: str) -> None:
    for row in rows:
        colour, dash = colour_and(DASHES, table.rows.index(row))
        numbers = np.arange(1, 1 + len(row.best_so_far))
        style = {"color": colour, "linestyle": dash, "drawstyle": "steps-post", "label": _short(row.name)}
        # A model without settings has been tried once: its line is a point.
        axes.plot(numbers, row.best_so_far, marker="o" if len(numbers) == 1 else None, **style)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(_short(table.data), pad=8)
    axes.set(xlabel="settings tried", ylabel=f"best {title(select_by)} on validation")
    legend_below(axes, ncols=_key_columns(rows))


def _time(axes: Any, table: Table, rows: Sequence[Row]) -> None:
    for row in rows:
        assert row.compared is not None
        colour, marker = colour_and(MARKERS, table.rows.index(row))
        axes.plot(row.seconds_to_best, row.compared.mean, marker, color=colour, markersize=7, label=_short(row.name))
    axes.set(
        title=_short(table.data),
        xlabel="seconds to the best validation",
        ylabel=f"{title(table.metrics[0])} on {table.split}",
    )
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, "{:g}".format)
    axes.margins(0.12)
    legend_below(axes, ncols=_key_columns(rows))


def _key_columns(rows: Sequence[Row]) -> int:
    return 2 if all(len(row.name) <= 16 for row in rows) else 1


def _key_height(rows_of_panels: Any) -> float:
    """Inches that the longest key takes."""
    return 0.2 + 0.19 * max(-(-len(rows) // _key_columns(rows)) for rows in rows_of_panels)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
