"""What a table and a report say of each row: numbers, without any text around them."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from rearm_jax.compare.results import SCORED, Results
from rearm_jax.evaluation.significance import Pair, all_pairs, compare, compare_and_pairs
from rearm_jax.evaluation.significance import Row as Compared

LEVEL = 0.05  # of what is called better or worse: the chance of any false one in a table


SPLITS = {"test": "test", "valid": "validation"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row on one data set; what no run has told yet is None, or empty.

    Attributes:
        name: in the table.
        compared: mean, sd, difference and p of the metric that the rows are compared by.
        means: metric -> mean over seeds of the means over users.
        planned, failed_seeds: final runs that were asked for, and that failed.
        closed_form: one seed is all there is.
        is_external: lists of another toolkit: what was tried for them is not known.
        lists: coverage, Gini and novelty, mean over seeds.
        by_history, by_popularity: as slices.by_history and found_by_popularity give them, means over seeds.
        parameters: number of them.
        devices: kinds of device of the final runs, None for those that did not note it.
        tried, failed, pruned: settings tried, and how many of these failed or were pruned.
        best_so_far: the best validation metric after each setting tried, NaN before the first that is done.
        chosen: number, settings and validation metric of the setting that is best on validation.
        seconds_to_best, seconds_per_epoch, peak_bytes: of a run of its own that nothing ran beside; in closed form the
            seconds of the fit.
    """

    name: str
    compared: Compared | None
    means: Mapping[str, float]
    planned: int
    failed_seeds: int
    closed_form: bool
    is_external: bool
    lists: Mapping[str, float]
    by_history: Sequence[Mapping[str, Any]]
    by_popularity: Sequence[Mapping[str, Any]]
    parameters: int | None
    devices: Set[str | None]
    tried: int
    failed: int
    pruned: int
    best_so_far: np.ndarray
    chosen: tuple[int, Mapping[str, Any], float] | None
    seconds_to_best: float | None
    seconds_per_epoch: float | None
    peak_bytes: int | None

    @property
    def one_seed(self) -> bool:
        """Whether its interval knows nothing of other seeds, though others would give other scores."""
        return self.compared is not None and self.compared.seeds == 1 and not self.closed_form

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "tie" beside the reference; "" where there is no difference to judge."""
        if self.compared is None or self.compared.difference is None or self.compared.holm is None:
            return ""
        if self.compared.holm >= LEVEL:
            return "tie"
        return "better" if self.compared.difference.value > 0 else "worse"


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows on one data set.

    Attributes:
        data: its name.
        facts: its sizes and hashes.
        split: what it is compared on, for people: "test" or "validation".
        scored_users: users with a positive there; 0 before the first final run.
        metrics: all that there are, the one that the rows are compared by first.
        rows: in the order of the comparison.
        pairs: of all rows with a final run.
    """

    data: str
    facts: Mapping[str, Any]
    split: str
    scored_users: int
    metrics: Sequence[str]
    rows: Sequence[Row]
    pairs: Mapping[tuple[str, str], Pair]


@dataclasses.dataclass(frozen=True)
class Summary:
    """All tables; `about` is that of `Results`, `failures` are (data, row, kind, number, error)."""

    about: Mapping[str, Any]
    tables: Sequence[Table]
    failures: Sequence[tuple[str, str, str, int, str]]


def summarise(results: Results, num_resamples: int = 10_000) -> Summary:
    """The numbers of all tables.

    Args:
        results: of one or several workdirs.
        num_resamples: of the bootstrap, see `significance.compare`.
    """
    tables = [_table(results, data, num_resamples) for data in results.about["data"]]
    failures = [
        (run["data"], run["row"], run["kind"], run["number"], run["error"] or "")
        for run in results.runs.iter_rows(named=True)
        if run["status"] == "failed"
    ]
    return Summary(results.about, tables, failures)


def _table(results: Results, data: str, num_resamples: int) -> Table:
    about, metric = results.about, results.about["metric"]
    users = {row: results.users.get(data, {}).get(row) for row in about["rows"]}
    runs = {row: metrics[metric] for row, metrics in users.items() if metrics}
    compared, pairs = _compared(runs, about["reference"], num_resamples)
    names = {name for metrics in users.values() for name in metrics or ()}
    elsewhere = set(results.runs.filter(kind="external")["row"])  # lists may be of some data sets only
    rows = []
    for source in about["sources"]:
        if data in source["data"]:
            for row in source["rows"]:
                found = [run for run in results.runs.iter_rows(named=True) if (run["data"], run["row"]) == (data, row)]
                if found or row not in elsewhere:
                    rows.append(_row(row, found, source["seeds"], compared.get(row), users[row] or {}))
    return Table(
        data=data,
        facts=about["data"][data],
        split=SPLITS[about["split"]],
        scored_users=next((values.shape[1] for values in runs.values()), 0),
        metrics=[metric, *sorted(names - {metric}, key=lambda name: _nearness(name, metric))],
        rows=sorted(rows, key=lambda row: about["rows"].index(row.name)),
        pairs=pairs,
    )


def _compared(
    runs: Mapping[str, np.ndarray], reference: str, num_resamples: int
) -> tuple[Mapping[str, Compared], Mapping[tuple[str, str], Pair]]:
    if reference in runs:
        return compare_and_pairs(runs, reference, num_resamples)
    # Each beside itself: its mean and sd alone, as there is nothing to compare with yet.
    alone = {row: compare({row: values}, row, num_resamples=1)[row] for row, values in runs.items()}
    return alone, all_pairs(runs, num_resamples) if len(runs) > 1 else {}


def _nearness(name: str, metric: str) -> tuple[bool, int, str]:
    """Order of metrics: those at the cut-off of `metric` first."""
    kind, cutoff = name.split("@")
    return cutoff != metric.split("@")[1], int(cutoff), kind


def _row(
    name: str,
    runs: Sequence[Mapping[str, Any]],
    seeds: int,
    compared: Compared | None,
    users: Mapping[str, np.ndarray],
) -> Row:
    search = sorted((run for run in runs if run["kind"] == "search"), key=lambda run: run["number"])
    final = [run for run in runs if run["kind"] in SCORED]
    done = [run for run in final if run["status"] == "done"]
    timing: Mapping[str, Any] = next((run for run in runs if run["kind"] == "timing" and run["status"] == "done"), {})
    slices = [json.loads(run["slices"]) for run in done if run["slices"]]
    is_external = any(run["kind"] == "external" for run in runs)
    closed_form = any(run["closed_form"] for run in runs)
    tried = search or done[:1]  # a single setting is not searched
    valid = [run["valid"] if run["status"] == "done" else math.nan for run in search]
    return Row(
        name=name,
        compared=compared,
        means={metric: float(values.mean(dtype=np.float64)) for metric, values in users.items()},
        planned=len(final) if is_external else 1 if closed_form else seeds,
        failed_seeds=sum(run["status"] == "failed" for run in final),
        closed_form=closed_form,
        is_external=is_external,
        lists=_mean_of([one["lists"] for one in slices]),
        by_history=[_mean_of(group) for group in zip(*(one["by_history"] for one in slices), strict=True)],
        by_popularity=[_mean_of(group) for group in zip(*(one["by_popularity"] for one in slices), strict=True)],
        parameters=next((run["parameters"] for run in [*done, *search] if run["parameters"] is not None), None),
        devices={run["device"] for run in done if run["kind"] == "final"},
        tried=len(tried),
        failed=sum(run["status"] == "failed" for run in search),
        pruned=sum(run["status"] == "pruned" for run in search),
        best_so_far=np.fmax.accumulate(np.array(valid, np.float64)),
        chosen=_chosen(tried),
        seconds_to_best=timing.get("seconds") if closed_form else timing.get("seconds_to_best"),
        seconds_per_epoch=timing.get("seconds_per_epoch"),
        peak_bytes=timing.get("peak_bytes"),
    )


def _chosen(search: Sequence[Mapping[str, Any]]) -> tuple[int, Mapping[str, Any], float] | None:
    done = [run for run in search if run["status"] == "done" and run["valid"] is not None]
    if not done:
        return None
    best = max(done, key=lambda run: (run["valid"], -run["number"]))  # of equal ones the first
    return best["number"], json.loads(best["settings"]), best["valid"]


def _mean_of(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds of the numbers of equal dicts; a range is the same for every seed."""
    first = dict(seeds[0]) if seeds else {}
    return {
        name: value if isinstance(value, list) else float(np.mean([one[name] for one in seeds]))
        for name, value in first.items()
    }
