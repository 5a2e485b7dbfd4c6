"""What the sections of the page show, for the templates of the same names: drawings, and the text of tables' cells."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rearm_jax import models
from rearm_jax.report.drawing import Drawing
from rearm_jax.report.features import SAMPLE_SIZE, SHARED, Embedding
from rearm_jax.report.figures import span
from rearm_jax.report.measures import Estimate, GraphSide, Group, Neighbours

YARDSTICKS = {"most_popular": "most popular", "random": "random"}


def title(model: str) -> str:
    """What people call a model, by its `config.model.name`."""
    return models.find(model).title


def features(drawing: Drawing, embeddings: Mapping[tuple[str, str], Embedding]) -> dict[str, Any]:
    """Keys of `embeddings`: ("users" or "items", "before training" or "after training")."""
    times = list(dict.fromkeys(when for _, when in embeddings))
    silhouettes = [
        (side, *(_signed(embeddings[side, when].silhouette).removeprefix("+") for when in times))
        for side in dict.fromkeys(side for side, _ in embeddings)
    ]
    kinds = next(iter(embeddings.values())).points
    return {
        "drawing": drawing,
        "unique": [kind for kind in kinds if kind != SHARED],
        "has_shared": SHARED in kinds,
        "sample_size": SAMPLE_SIZE,
        "header": ("", *times),
        "rows": silhouettes,
    }


def recall(drawing: Drawing, item_groups: Sequence[Group], user_groups: Sequence[Group], k: int) -> dict[str, Any]:
    """Recall@k by group of items and by group of users."""
    by_items, by_users = ([_group_row(group) for group in groups] for groups in (item_groups, user_groups))
    return {"drawing": drawing, "k": k, "by_items": by_items, "by_users": by_users}


def attention(drawing: Drawing, before: Mapping, after: Mapping, dim: int) -> dict[str, Any]:
    """`before` and `after` training, the scalars of each attention as `attention_scalars` gives them."""
    rows = []
    for name in after:
        pairs = zip(before[name], after[name], strict=True)
        rows.append((name, *(f"{_signed(old)} → {_signed(new)}" for old, new in pairs)))
    return {"drawing": drawing, "dim": dim, "rows": rows}


def graphs(drawing: Drawing, sides: Sequence[GraphSide]) -> dict[str, Any]:
    """The statistics of each side of each graph."""
    return {"drawing": drawing, "names": [side.name for side in sides], "rows": [_graph_row(side) for side in sides]}


def neighbours(
    popular: Sequence[Neighbours], rare: Sequence[Neighbours], names: np.ndarray, counts: np.ndarray
) -> dict[str, list]:
    """Cards of items under their headings; `counts` are int (num_items,), the train interactions of each item."""

    def card(shown: Neighbours) -> dict[str, Any]:
        pairs = zip(shown.neighbours, shown.similarities, strict=True)
        return {
            "name": item_name(names, shown.item),
            "interactions": plural(counts[shown.item], "train interaction"),
            "nearest": [(item_name(names, item), f"{similarity:.2f}") for item, similarity in pairs],
        }

    return {"Popular items": [card(shown) for shown in popular], "Rare items": [card(shown) for shown in rare]}


def numbers(result: Mapping, settings: Mapping) -> dict[str, Any]:
    """Every metric of result.json, and the resolved settings."""
    columns = {title(result["model"]): result}
    columns |= {YARDSTICKS[name]: values for name, values in result["yardsticks"].items()}
    metrics = [name.removeprefix("test/") for name in result if name.startswith("test/")]
    header = ["metric", *(f"{name}, {split}" for split in ("test", "validation") for name in columns)]
    rows = [
        (metric, *(f"{values[f'{split}/{metric}']:.4f}" for split in ("test", "valid") for values in columns.values()))
        for metric in metrics
    ]
    return {"header": header, "rows": rows, "settings": _flat(settings)}


def item_name(names: np.ndarray, item: int) -> str:
    """The name of an item, "item 3" where it has a number alone."""
    return f"item {names[item]}" if names.dtype.kind in "iu" else str(names[item])


def plural(count: int, noun: str) -> str:
    """1 item, 2,000 items."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def _graph_row(side: GraphSide) -> tuple[str, ...]:
    n, degrees = len(side.degrees), side.degrees
    return (
        side.name,
        f"{n:,}",
        f"{side.num_entries:,}",
        f"{degrees.mean():.1f}",
        f"{np.median(degrees):g}",
        f"{degrees.max():,}",
        f"{(degrees == 0).mean():.1%}",
        f"{side.num_isolated / n:.1%}",
    )


def _group_row(group: Group) -> tuple[str, ...]:
    return span(group), f"{group.num_members:,}", f"{group.num_pairs:,}", _pm(group.model), _pm(group.popular)


def _signed(number: float) -> str:
    """Three decimals and a sign, +0.000 also just below 0."""
    return f"{round(number, 3) + 0.0:+.3f}".replace("-", "\N{MINUS SIGN}")


def _pm(estimate: Estimate) -> str:
    if np.isnan(estimate.half_width):
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ± {estimate.half_width:.4f}"


def _flat(settings: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """("model.rank", "3"), ... in the order of the config."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, json.dumps(value, ensure_ascii=False)))
    return rows
