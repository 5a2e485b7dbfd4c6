"""The text of the tables' cells, the same for Markdown, LaTeX and HTML: what is compared has equally many decimals."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rearm_jax.compare.summary import LEVEL, Row, Summary, Table

MINUS, DASH, DAGGER = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{DAGGER}"


class Cells(NamedTuple):
    """A table as text; the first cell of a row names it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def quality(table: Table, reference: str) -> Cells:
    """What the rows find: the metric that they are compared by, with differences to the reference; then the others."""
    metric, *others = table.metrics
    show = metric_text(table)
    header = ["model", "seeds", title(metric), "sd", f"difference to {reference}", "95% interval", "p (Holm)"]
    header += [f"beside {reference}", *map(title, others)]
    rows = []
    for row in table.rows:
        found = row.compared
        value, interval = difference_text(row, table)
        p = "" if found is None or found.holm is None else p_text(found.holm)
        numbers = [_or_dash(found and found.mean, show), _or_dash(found and found.sd, show), value, interval, p or DASH]
        means = [_or_dash(row.means.get(name), show) for name in others]
        rows.append([_name(row), _seeds(row), *numbers, _verdict(row, reference), *means])
    return Cells(f"{table.data}: what is found on {table.split}", header, rows)


def cost(table: Table) -> Cells:
    """What the lists are beside hits, at the cut-off that the rows are compared at, and what the rows cost."""
    cutoff = table.metrics[0].partition("@")[2]
    measures = dict.fromkeys(name for row in table.rows for name in row.lists if name.endswith(f"@{cutoff}"))
    columns: list[tuple[str, list[str]]] = [
        (title(name), _column([row.lists.get(name) for row in table.rows], decimals=3)) for name in measures
    ]
    columns += [
        ("parameters", _column([row.parameters for row in table.rows], decimals=0)),
        *(
            (name, _column([None if row.is_external else getattr(row, field) for row in table.rows], decimals=0))
            for name, field in (("settings tried", "tried"), ("failed", "failed"), ("pruned", "pruned"))
        ),
        ("seconds to the best", _column([row.seconds_to_best for row in table.rows])),
        ("seconds an epoch", _column([row.seconds_per_epoch for row in table.rows])),
        ("peak memory, MiB", _column([row.peak_bytes and row.peak_bytes / 2**20 for row in table.rows], decimals=0)),
    ]
    rows = [[row.name, *(cells[place] for _, cells in columns)] for place, row in enumerate(table.rows)]
    return Cells(f"{table.data}: lists and costs", ["model", *(name for name, _ in columns)], rows)


def pairs(table: Table) -> Cells:
    """Every pair of rows with a final run."""
    show = metric_text(table)
    header = [
        "first minus second",
        f"difference in {title(table.metrics[0])}",
        "95% interval",
        "p",
        "paired t",
        "Wilcoxon",
    ]
    rows = []
    for (a, b), pair in table.pairs.items():
        low, high = (_signed(value, show) for value in (pair.difference.low, pair.difference.high))
        p = [p_text(value) for value in (pair.difference.p, pair.t_test, pair.wilcoxon)]
        rows.append([f"{a} {MINUS} {b}", _signed(pair.difference.value, show), f"{low} to {high}", *p])
    return Cells(f"{table.data}: all pairs", header, rows)


def notes(table: Table, summary: Summary) -> list[str]:
    """What has to be known to read the tables of a data set."""
    reference, metric = summary.about["reference"], title(table.metrics[0])
    compared = {row.name for row in table.rows if row.compared}
    said = []
    if compared:
        said.append(
            f"Means over {table.scored_users:,} users with a {table.split} interaction. sd: over seeds. Differences "
            f"are to {reference}; intervals, p and verdicts come from one bootstrap, over users and over the seeds of "
            "each model. p is adjusted for the rows of the table (Holm), the intervals are not: better and worse are "
            f"those with p < {LEVEL:g}, tie means that no difference was found."
        )
    if reference not in {row.name for row in table.rows}:
        said.append(f"There is no row {reference} on {table.data}, so that there are no differences of {metric}.")
    elif reference not in compared:
        said.append(f"{reference}, the reference, has no final run yet: there are no differences of {metric}.")
    if len(compared) < len(table.rows):
        said.append(
            f"Pending, without a final run so far: {', '.join(row.name for row in table.rows if row.compared is None)}."
        )
    if any(row.one_seed for row in table.rows):
        said.append(f"{DAGGER} one seed: its interval knows nothing of other seeds.")
    if any(row.failed_seeds for row in table.rows):
        failed = ", ".join(f"{row.failed_seeds} of {row.name}" for row in table.rows if row.failed_seeds)
        said.append(f"Final runs failed, whose seeds are not in the means: {failed}.")
    if any(row.closed_form for row in table.rows):
        closed = ", ".join(row.name for row in table.rows if row.closed_form)
        said.append(f"Fitted in closed form, so that one seed is all there is: {closed}.")
    if any(row.devices - {None} for row in table.rows):
        on: dict[str, list[str]] = {}
        for row in table.rows:
            if row.devices:
                kinds = " and ".join(sorted(device or "what was not noted" for device in row.devices))
                on.setdefault(kinds, []).append(row.name)
        said.append("Final runs on " + "; on ".join(f"{kinds}: {', '.join(on[kinds])}" for kinds in sorted(on)) + ".")
    if any(row.seconds_to_best is not None for row in table.rows):
        said.append("Seconds and memory: of a run of each model that nothing ran beside.")
    return said


def facts(table: Table) -> str:
    """The sizes of a data set, in a line."""
    sizes = table.facts
    return (
        f"{sizes['users']:,} users, {sizes['items']:,} items; interactions: {sizes['train']:,} train, "
        f"{sizes['valid']:,} validation, {sizes['test']:,} test"
    )


def title(metric: str) -> str:
    """NDCG@20 for ndcg@20, Recall@20 for recall@20."""
    name, _, cutoff = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'map') else name.capitalize()}@{cutoff}"


def metric_text(table: Table) -> Callable[[float], str]:
    """How metrics of a data set are written: with two digits of the smallest standard error, from 4 to 7 decimals."""
    errors = [row.compared.difference.error for row in table.rows if row.compared and row.compared.difference]
    decimals = max((1 - math.floor(math.log10(error)) for error in errors if error > 0), default=4)
    return f"{{:.{min(max(decimals, 4), 7)}f}}".format


def difference_text(row: Row, table: Table) -> tuple[str, str]:
    """The difference to the reference and its interval; dashes without one."""
    if row.compared is None or row.compared.difference is None:
        return DASH, DASH
    show, difference = metric_text(table), row.compared.difference
    low, high = _signed(difference.low, show), _signed(difference.high, show)
    return _signed(difference.value, show), f"{low} to {high}"


def p_text(p: float) -> str:
    """Four decimals, "<0.0001" below."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def span(group: Any) -> str:
    """The numbers of train interactions of a group of a slice."""
    low, high = group["train_interactions"]
    return f"{low:,}" if low == high else f"{low:,}{DASH}{high:,}"


def _name(row: Row) -> str:
    return f"{row.name} {DAGGER}" if row.one_seed else row.name


def _seeds(row: Row) -> str:
    done = row.compared.seeds if row.compared else 0
    return f"{done}" if done == row.planned else f"{done} of {row.planned}"


def _verdict(row: Row, reference: str) -> str:
    if row.compared is None:
        return "pending"
    return "reference" if row.name == reference else row.verdict or DASH


def _signed(value: float, show: Callable[[float], str]) -> str:
    text = show(abs(value))
    if not float(text):
        return f"\N{PLUS-MINUS SIGN}{text}"
    return f"{'+' if value > 0 else MINUS}{text}"


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return DASH if value is None or math.isnan(value) else show(value)


def _column(values: Iterable[float | None], decimals: int | None = None) -> list[str]:
    """Numbers with the same number of decimals; without one given, two digits of the smallest, up to three decimals."""
    values = list(values)
    if decimals is None:
        smallest = min((value for value in values if value), default=1.0)
        decimals = min(max(1 - math.floor(math.log10(smallest)), 0), 3)
    least = 10.0**-decimals
    return [
        "<" + f"{least:.{decimals}f}" if value and value < least / 2 else _or_dash(value, f"{{:,.{decimals}f}}".format)
        for value in values
    ]
