"""What each section of the page says, around drawings and numbers that are at hand already."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from rearm_jax import models
from rearm_jax.report.drawing import Drawing
from rearm_jax.report.features import SAMPLE_SIZE, SHARED, Embedding
from rearm_jax.report.figures import span
from rearm_jax.report.markup import Markup, element, table
from rearm_jax.report.measures import Estimate, GraphSide, Group, Neighbours

YARDSTICKS = {"most_popular": "most popular", "random": "random"}
SECTIONS = {
    "users": "Users and their lists",
    "training": "Training",
    "features": "Modal-shared and modal-unique features",
    "recall": "Recall by popularity and history",
    "attention": "Attention",
    "graphs": "Graphs",
    "neighbours": "Nearest neighbours",
    "numbers": "All numbers",
}


def title(model: str) -> str:
    """What people call a model, by its `config.model.name`."""
    return models.find(model).title


def training(drawing: Drawing, metric: str) -> Markup:
    text = (
        f"The best checkpoint is that of the highest {metric} on validation; everything below is about it. The parts "
        "of the loss are shown with their weights, as they add up."
    )
    caption = (
        "Loss: on a logarithmic axis, without parts of weight 0. Validation: metrics after each epoch. The dotted line "
        "marks the best epoch."
    )
    return section("training", text, _figure(drawing, caption))


def without_training(model: str) -> Markup:
    text = f"{title(model)} is fitted in closed form, at once: there are no epochs and no losses to show."
    return section("training", text)


def without_features(model: str) -> Markup:
    text = f"{title(model)} has no modalities, so that there is nothing modal to share or to keep apart."
    return section("features", text)


def features(drawing: Drawing, embeddings: Mapping[tuple[str, str], Embedding]) -> Markup:
    points = next(iter(embeddings.values())).points
    unique = [kind for kind in points if kind != SHARED]
    if len(unique) == 1:
        about = "the features after propagation over the user-item graph", "them"
    else:
        about = (
            "the features of one modality after propagation over the user-item graph, which the orthogonal loss pushes "
            "apart",
            "all modalities",
        )
    text = (
        f"Each user and each item is drawn once for each kind of features. Modal-unique ({', '.join(unique)}): "
        f"{about[0]}. Modal-shared ({SHARED}): what the meta-network distils from {about[1]}, as a transformation of "
        "the ID embedding."
    )
    caption = (
        f"t-SNE of at most {SAMPLE_SIZE} users and {SAMPLE_SIZE} items, drawn at random, the same before and after "
        "training; every row is scaled to length 1 first. Before: the parameters at initialisation. After: the best "
        "checkpoint. Distances between far groups mean little in such a plot."
    )
    note = (
        "The silhouette is at most 1, where each kind is tight and apart from the others; at 0 they overlap. It is "
        "computed on the features themselves, not on the picture."
    )
    times = list(dict.fromkeys(when for _, when in embeddings))
    rows = [
        (side, *(_signed(embeddings[side, when].silhouette).removeprefix("+") for when in times))
        for side in dict.fromkeys(side for side, _ in embeddings)
    ]
    return section(
        "features",
        text,
        _figure(drawing, caption),
        table("Separation of the kinds (silhouette)", ("", *times), rows),
        _note(note),
    )


def recall(drawing: Drawing, item_groups: Sequence[Group], user_groups: Sequence[Group], model: str, k: int) -> Markup:
    text = (
        f"Recall@{k} on the test split, train items left out, beside recommending the most popular items to everyone. "
        "Groups hold equal shares of the items, or of the test users, as far as equal counts allow."
    )
    caption = (
        "Items: the share of a group's test interactions that were found. Users: the mean over a group's users, so "
        "that all groups together give the recall of the run. Bars: 95 % intervals (normal, with users as the sample), "
        "none where all of a group fared alike."
    )
    results = "test interactions", f"recall@{k} {title(model)}", f"recall@{k} most popular"
    by_items = table(
        "By popularity of the item", ("train interactions", "items", *results), map(_group_row, item_groups)
    )
    by_users = table("By history of the user", ("train interactions", "users", *results), map(_group_row, user_groups))
    return section("recall", text, _figure(drawing, caption), by_items, by_users)


def without_attention(model: str) -> Markup:
    return section("attention", f"{title(model)} has no attention.")


def attention(drawing: Drawing, before: Mapping, after: Mapping, dim: int) -> Markup:
    where = ", in each modality (self) and across modalities (cross: another one asks)" if len(after) > 1 else ""
    text = (
        f"Attention works within an item: its {dim} feature coordinates attend to each other{where}. Query, key and "
        "value are scalars, so that all it learns are the three numbers of the table."
    )
    caption = (
        "Thick: the middle half; thin: 5th to 95th percentile; dot: median. What a query attends to: exp of the "
        f"entropy of its weights. At {dim} it takes the plain mean of all coordinates, a constant that the layer norm "
        "cancels. What attention adds: how much it changes an item, relative to what it is added to."
    )
    note = (
        "Weights are proportional to exp((coupling · what asks + tilt) · what answers); the result is gain times the "
        "weighted mean of what answers."
    )
    rows = []
    for name in after:
        pairs = zip(before[name], after[name], strict=True)
        rows.append((name, *(f"{_signed(old)} → {_signed(new)}" for old, new in pairs)))
    scalars = table("Learned scalars, before → after training", ("attention", "coupling", "tilt", "gain"), rows)
    return section("attention", text, _figure(drawing, caption), scalars, _note(note))


def graphs(drawing: Drawing, sides: Sequence[GraphSide], model: str) -> Markup:
    names = {side.name for side in sides}
    text = (
        "Who interacted with what (user-item)"
        + (", users alike by co-occurrence and interest (user-user)" if "user-user" in names else "")
        + (", items alike by co-occurrence and features (item-item)" if "item-item" in names else "")
        + f". {title(model)} learns from these."
    )
    caption = (
        "Share of the nodes with at least as many train interactions, or that at least as many others list among "
        "their neighbours; both axes are logarithmic. A long tail to the right means hubs."
    )
    note = (
        "Degree: train interactions, or for user-user and item-item how many other nodes list the node among their "
        "neighbours. Isolated: joined to no other node in either direction."
    )
    header = ("graph", "nodes", "entries", "mean degree", "median", "largest", "degree 0", "isolated")
    statistics = table("Graphs", header, map(_graph_row, sides))
    return section("graphs", text, _figure(drawing, caption), statistics, _note(note))


def neighbours(
    popular: Sequence[Neighbours], rare: Sequence[Neighbours], names: np.ndarray, counts: np.ndarray
) -> Markup:
    def card(shown: Neighbours) -> Markup:
        items = [
            element("li", element("span", item_name(names, item)), element("span", f"{value:.2f}"))
            for item, value in zip(shown.neighbours, shown.similarities, strict=True)
        ]
        heading = element("h4", item_name(names, shown.item))
        interactions = element("p", plural(counts[shown.item], "train interaction"))
        return element("article", heading, interactions, element("ol", *items), class_="card")

    def cards(title: str, group: Sequence[Neighbours]) -> list[Markup]:
        if not group:
            return []
        return [element("h3", title), element("div", *map(card, group), class_="cards")]

    return section(
        "neighbours",
        "The items whose representations point in the most similar direction, with the cosine.",
        *cards("Popular items", popular),
        *cards("Rare items", rare),
    )


def without_neighbours(model: str) -> Markup:
    text = f"{title(model)} has no vectors of items, so that no item is near another in the sense of this section."
    return section("neighbours", text)


def numbers(result: Mapping, settings: Mapping) -> Markup:
    """Every metric of result.json, and the resolved settings."""
    columns = {title(result["model"]): result}
    columns |= {YARDSTICKS[name]: values for name, values in result["yardsticks"].items()}
    metrics = [name.removeprefix("test/") for name in result if name.startswith("test/")]
    header = [f"{name}, {split}" for split in ("test", "validation") for name in columns]
    rows = [
        (metric, *(f"{values[f'{split}/{metric}']:.4f}" for split in ("test", "valid") for values in columns.values()))
        for metric in metrics
    ]
    return section(
        "numbers",
        "Metrics are means over the users with a positive in the split; all items are ranked, train items left out.",
        table("Metrics", ("metric", *header), rows),
        element(
            "details",
            element("summary", "All settings"),
            table("Settings", ("name", "value"), _flat(settings), class_="settings"),
        ),
    )


def item_name(names: np.ndarray, item: int) -> str:
    """The name of an item, "item 3" where it has a number alone."""
    return f"item {names[item]}" if names.dtype.kind in "iu" else str(names[item])


def plural(count: int, noun: str) -> str:
    """1 item, 2,000 items."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def section(anchor: str, text: str, *children: Markup) -> Markup:
    """A section of the page, under the heading that SECTIONS names."""
    return element("section", element("h2", SECTIONS[anchor]), element("p", text), *children, id=anchor)


def _figure(drawing: Drawing, caption: str) -> Markup:
    panels = [
        element("div", Markup(svg), class_="panel", role="img", aria_label=alt)
        for svg, alt in zip(drawing.svgs(), drawing.alts, strict=True)
    ]
    class_ = "panels three" if drawing.columns == 3 else "panels"
    return element(
        "figure", element("div", *panels, class_=class_), element("figcaption", caption), id=f"figure-{drawing.name}"
    )


def _note(text: str) -> Markup:
    return element("p", text, class_="note")


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
