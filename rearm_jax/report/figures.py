"""The drawings of the report, each from numbers that are at hand already."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from rearm_jax.report.drawing import (
    BLUE,
    DASHES,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    SERIES,
    Drawing,
    colour_and,
    legend_above,
    plain_ticks,
)
from rearm_jax.report.features import AttentionBlock, Embedding
from rearm_jax.report.measures import Estimate, GraphSide, Group


def training(records: Sequence[Mapping], metric: str, best_epoch: int) -> Drawing:
    """Loss and validation metrics by epoch.

    Args:
      records: lines of metrics.jsonl, one an epoch; validation metrics are in those that evaluated.
      metric: such as "recall@20", the one that picks the best checkpoint.
      best_epoch: whose checkpoint it is.
    """
    recorded = dict.fromkeys(name for record in records for name in record if name.startswith("train/"))
    parts = [name.removeprefix("train/") for name in recorded if name not in ("train/loss", "train/grad_norm")]
    losses = {"total": _curve(records, "train/loss")} | {name: _curve(records, f"train/{name}") for name in parts}
    losses = {name: curve for name, curve in losses.items() if (curve[1] > 0).any()}  # the axis is logarithmic
    cutoff = metric.split("@")[1]
    names = dict.fromkeys((metric, f"recall@{cutoff}", f"ndcg@{cutoff}"))
    metrics = {name: _curve(records, f"valid/{name}") for name in names}
    values = metrics[metric][1]
    alts = (
        f"Line chart, logarithmic: the loss and its parts over {records[-1]['epoch']} epochs. The loss goes from "
        f"{losses['total'][1][0]:.3g} to {losses['total'][1][-1]:.3g}.",
        f"Line chart: validation metrics over the epochs. {metric} goes from {values[0]:.3g} to {values[-1]:.3g}, its "
        f"best is {values.max():.3g} after epoch {best_epoch}.",
    )
    panels = (
        partial(_losses, curves=losses, best=best_epoch),
        partial(_metrics, curves=metrics, best=best_epoch),
    )
    return Drawing("training", panels, alts)


def features(embeddings: Mapping[tuple[str, str], Embedding]) -> Drawing:
    """The paper's figure. Keys: ("users" or "items", "before training" or "after training")."""
    panels, alts = [], []
    for (side, when), embedding in embeddings.items():
        panels.append(partial(_scatter, title=f"{side.capitalize()}, {when}", embedding=embedding))
        kinds = ", ".join(embedding.points)
        alts.append(
            f"Scatter plot, t-SNE of features of {side}, {when}; kinds: {kinds}. Silhouette {embedding.silhouette:.2f}."
        )
    return Drawing("features", tuple(panels), tuple(alts), columns=2, size=(4.3, 4.5))


def recall(item_groups: Sequence[Group], user_groups: Sequence[Group], model: str, k: int) -> Drawing:
    """Recall of the model and of most-popular, by group of items and by group of users."""
    sides = (
        ("By popularity of the item", "train interactions of the item", item_groups),
        ("By history of the user", "train interactions of the user", user_groups),
    )
    panels = tuple(
        partial(_estimates, title=title, x_label=x_label, y_label=f"recall@{k} on test", groups=groups, model=model)
        for title, x_label, groups in sides
    )
    alts = tuple(
        f"Points with 95 % intervals: recall@{k}, {title[0].lower()}{title[1:]}. "
        + " ".join(
            f"{span(group)}: {model} {group.model.value:.3f}, most popular {group.popular.value:.3f}."
            for group in groups
        )
        for title, _, groups in sides
    )
    return Drawing("recall", panels, alts)


def attention(before: Sequence[AttentionBlock], after: Sequence[AttentionBlock], dim: int) -> Drawing:
    """How sharp attention is, and how much it adds."""
    sides = (
        ("focus", "What a query attends to", f"effective number of coordinates, of {dim}"),
        ("contribution", "What attention adds", "standard deviation added ÷ that of the input"),
    )
    panels = tuple(
        partial(_ranges, title=title, x_label=x_label, before=_named(before, field), after=_named(after, field))
        for field, title, x_label in sides
    )
    alts = tuple(
        f"Ranges from the 5th to the 95th percentile, before and after training: {x_label}. Medians after training: "
        + ", ".join(f"{name} {np.median(values):.3g}" for name, values in _named(after, field).items())
        + "."
        for field, _, x_label in sides
    )
    return Drawing("attention", panels, alts, size=(4.3, max(2.6, 1.4 + 0.45 * len(after))))


def degrees(sides: Sequence[GraphSide]) -> Drawing:
    """Degree distributions, of the user-item graph in one panel; `sides` are those of `graph_sides`."""
    interactions, relations = sides[:2], sides[2:]
    groups = [
        ("User-item", "train interactions, at least", {side.nodes: side for side in interactions}),
        *(
            (side.name.capitalize(), f"other {side.nodes} that list it, at least", {side.nodes: side})
            for side in relations
        ),
    ]
    panels = tuple(
        partial(_survival, title=title, x_label=x_label, degrees={name: side.degrees for name, side in lines.items()})
        for title, x_label, lines in groups
    )
    alts = tuple(
        f"Line chart, logarithmic: share of nodes by least degree in the {title.lower()} graph. "
        + " ".join(
            f"{name}: median {np.median(side.degrees):.0f}, most {side.degrees.max()}." for name, side in lines.items()
        )
        for title, _, lines in groups
    )
    return Drawing("graphs", panels, alts, columns=3, size=(3.3, 2.7))


def span(group: Group) -> str:
    """The numbers of train interactions of a group, as a range."""
    return str(group.lowest) if group.lowest == group.highest else f"{group.lowest}\N{EN DASH}{group.highest}"


def _curve(records: Sequence[Mapping], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values where a name was recorded; a value that was not finite is NaN."""
    found = [(record["epoch"], record[name]) for record in records if name in record]
    epochs, values = np.array(found, np.float64).reshape(-1, 2).T
    return epochs, values


def _losses(axes: Any, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], best: int) -> None:
    _curves(axes, curves, best)
    axes.set(title="Loss", ylabel="loss, mean over an epoch", yscale="log")
    plain_ticks(axes.yaxis, "{:g}".format)
    legend_above(axes)


def _metrics(axes: Any, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], best: int) -> None:
    _curves(axes, curves, best)
    low, high = axes.get_xlim()
    side = "left" if best < (low + high) / 2 else "right"  # the text stands where there is more room
    shift = 4 if side == "left" else -4
    axes.annotate(
        f"best: {best}", (best, 0), (shift, 4), ("data", "axes fraction"), "offset points", ha=side, color=MUTED
    )
    axes.set_ylim(bottom=0)
    axes.set(title="Validation", ylabel="metric, mean over users")
    legend_above(axes)


def _curves(axes: Any, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], best: int) -> None:
    axes.axvline(best, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    for number, (name, (epochs, values)) in enumerate(curves.items()):
        colour, dash = colour_and(DASHES, number)
        axes.plot(epochs, values, color=colour, linestyle=dash, label=name, marker="o" if len(epochs) < 5 else None)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")


def _scatter(axes: Any, title: str, embedding: Embedding) -> None:
    for number, (kind, points) in enumerate(embedding.points.items()):
        colour, marker = colour_and(MARKERS, number)
        axes.plot(*points.T, marker, color=colour, markersize=3.2, markeredgewidth=0, alpha=0.75, label=kind)
    axes.set(title=title, xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[], aspect="equal")
    axes.set_adjustable("datalim")
    axes.set_title(
        f"silhouette {embedding.silhouette:.2f}", loc="right", fontweight="normal", color=MUTED, fontsize=9.5
    )
    legend_above(axes, markerscale=2)


def _estimates(axes: Any, title: str, x_label: str, y_label: str, groups: Sequence[Group], model: str) -> None:
    places = np.arange(len(groups))
    for field, label, colour, marker, shift in (
        ("model", model, BLUE, "o", -0.08),
        ("popular", "most popular", ORANGE, "s", 0.08),
    ):
        estimates: list[Estimate] = [getattr(group, field) for group in groups]
        values, half_widths = np.array(estimates).T
        axes.errorbar(
            places + shift,
            values,
            np.nan_to_num(half_widths),
            fmt=marker,
            color=colour,
            markersize=5.5,
            elinewidth=1.4,
            capsize=3,
            label=label,
            clip_on=False,
        )
    axes.set_xticks(places, [span(group) for group in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    legend_above(axes)


def _named(blocks: Sequence[AttentionBlock], field: str) -> dict[str, np.ndarray]:
    return {block.name: getattr(block, field) for block in blocks}


def _ranges(
    axes: Any, title: str, x_label: str, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> None:
    for row, name in enumerate(after):
        for values, colour, face, shift, marker in (
            (before[name], MUTED, PAPER, -0.16, "s"),
            (after[name], BLUE, BLUE, 0.16, "o"),
        ):
            low, lower, middle, upper, high = np.percentile(values, (5, 25, 50, 75, 95))
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=1, solid_capstyle="round", clip_on=False)
            axes.plot(
                [lower, upper], [row + shift] * 2, color=colour, linewidth=3.5, solid_capstyle="round", clip_on=False
            )
            label = {MUTED: "before training", BLUE: "after training"}[colour] if row == 0 else None
            axes.plot(
                middle,
                row + shift,
                marker,
                color=colour,
                markerfacecolor=face,
                markersize=6,
                label=label,
                clip_on=False,
            )
    axes.set_yticks(range(len(after)), list(after))
    axes.set_ylim(len(after) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set(title=title, xlabel=x_label)
    legend_above(axes)


def _survival(axes: Any, title: str, x_label: str, degrees: Mapping[str, np.ndarray]) -> None:
    for (name, counts), colour, dash in zip(degrees.items(), SERIES, DASHES, strict=False):
        values, sizes = np.unique(counts, return_counts=True)
        shares = np.cumsum(sizes[::-1])[::-1] / len(counts)
        axes.plot(
            values[values > 0], shares[values > 0], color=colour, linestyle=dash, drawstyle="steps-pre", label=name
        )
    axes.set(title=title, xlabel=x_label, ylabel="share of nodes", xscale="log", yscale="log")
    plain_ticks(axes.xaxis, "{:g}".format)
    plain_ticks(axes.yaxis, lambda share: f"{100 * share:g}%")
    axes.grid(axis="both", visible=True)
    legend_above(axes)
