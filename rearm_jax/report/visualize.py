"""The report of a run, for people: report.html, one file that needs nothing else, and its figures as PNG files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.experiment import init_params
from rearm_jax.inference.extras import import_extra
from rearm_jax.inference.output import check_output_file, output_file
from rearm_jax.inference.trained import Trained
from rearm_jax.report import figures, measures, page, sections
from rearm_jax.report.drawing import Drawing
from rearm_jax.report.features import Inside, attention_scalars, embed, look_inside
from rearm_jax.report.people import cards, people
from rearm_jax.training.run_folder import read_result
from rearm_jax.training.writer import read_metrics


def write_report(trained: Trained, out: str | os.PathLike | None = None) -> None:
    """Writes the report of a finished run, each file whole or not at all.

    Args:
      trained: the run.
      out: the HTML file; without it <workdir>/report.html. The PNG files go to a folder of the same name without
        ".html", and replace those of an older report.

    Raises:
      ConfigError: a package of the extra `report` is missing, `out` does not end in .html or cannot be written; before
        any work is done.
      CheckpointError: the run is not finished, does not score validation and test, or a file of it is damaged.
    """
    path = check_report(trained.workdir, out)
    result, records = read_result(trained.workdir), read_metrics(trained.workdir)
    if result is None or not (records or trained.is_fitted):
        missing = "result.json" if result is None else "metrics.jsonl"
        raise CheckpointError(
            f"{trained.workdir} has no {missing}: the run is not finished. Give its training command again: it goes on "
            "from the last checkpoint"
        )
    if not trained.experiment.config.evaluation.test:
        raise CheckpointError(
            f"{trained.workdir} was trained with evaluation.test = False, and the report scores test. Train with "
            "config.evaluation.test=True in another run folder"
        )
    if not (len(trained.experiment.dataset.valid) and len(trained.experiment.dataset.test)):
        raise CheckpointError(
            f"{trained.workdir} has no validation or no test interactions, and the report scores both. Of a refit, "
            "make the report of the run that has its settings"
        )
    folder = path.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}, the folder of the PNG files, cannot be made: {error}") from error

    shown, drawings = _contents(trained, result, records)
    files = {folder / f"{drawing.name}.png": drawing.png() for drawing in drawings}
    files[path] = page.render("page.html", **shown).encode()  # written last: a page is never without its figures
    for file, content in files.items():
        with output_file(file) as temporary:
            temporary.write_bytes(content)
    logging.info("report: %s; its figures: %s", path, ", ".join(f"{folder}/{drawing.name}.png" for drawing in drawings))


def check_report(workdir: str | os.PathLike, out: str | os.PathLike | None) -> Path:
    """The file that the report goes to; to be asked before a run is opened, which takes longer.

    Raises:
      ConfigError: as `write_report`.
    """
    for package in ("jinja2", "matplotlib", "sklearn"):
        import_extra(package, "report", "the report")
    file = os.path.join(workdir, "report.html") if out is None else os.fspath(out)
    if not file.endswith(".html"):
        raise ConfigError(f"{file}: the report is an HTML file; give it a name that ends in .html")
    check_output_file(file)
    return Path(file)


def _contents(trained: Trained, result: dict, records: list[dict]) -> tuple[dict[str, Any], list[Drawing]]:
    """What page.html shows, and the drawings in it; a section that the model does not have is None."""
    experiment, dataset = trained.experiment, trained.experiment.dataset
    metric, model = experiment.config.evaluation.metric, sections.title(experiment.config.model.name)
    k = int(metric.split("@")[1])

    training = None if trained.is_fitted else figures.training(records, metric, result["best_epoch"])
    features, attention = _modal(trained)

    logging.info("report: recall by group, graphs, neighbours")
    groups = measures.recall_by_group(dataset, trained.scores, k, experiment.config.evaluation.block_size)
    recall = sections.recall(figures.recall(*groups, model, k), *groups, k)
    sides = measures.graph_sides(dataset, experiment.inputs)
    shown: dict[str, Any] = {
        "run": os.path.basename(os.path.abspath(trained.workdir)),
        "model": model,
        "head": page.head(dataset, result, metric),
        "users": cards(people(trained), dataset.labels.item_names),
        "training": None if training is None else {"drawing": training, "metric": metric},
        "features": features,
        "recall": recall,
        "attention": attention,
        "graphs": sections.graphs(figures.degrees(sides), sides),
        "neighbours": _neighbours(trained),
        "numbers": sections.numbers(result, experiment.config.to_dict()),
        "foot": page.foot(result),
    }
    drawings = [part["drawing"] for part in shown.values() if isinstance(part, dict) and part.get("drawing")]
    return shown, drawings


def _neighbours(trained: Trained) -> dict[str, list] | None:
    """The section on nearest neighbours; None for a model without vectors of items."""
    if trained.is_fitted:
        return None
    dataset = trained.experiment.dataset
    counts = most_popular_scores(dataset.train, dataset.num_items).astype(np.int64)
    vectors = np.asarray(trained.representations.items)
    popular, rare = (measures.nearest_items(items, vectors) for items in measures.shown_items(counts))
    return sections.neighbours(popular, rare, dataset.labels.item_names, counts)


def _modal(trained: Trained) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The sections on features and on attention, each None where the run has none.

    A run with one kind of features has a section without a drawing: there is nothing to tell apart.
    """
    experiment = trained.experiment
    if trained.is_fitted or "modal_items" not in trained.representations.views:
        return None, None
    initial = init_params(experiment)
    before, after = look_inside(experiment, initial), look_inside(experiment, trained.params)
    features = _features(before, after)
    if not after.attention:
        return features, None
    dim, names = experiment.config.model.embedding_dim, list(experiment.dataset.features)
    drawing = figures.attention(before.attention, after.attention, dim)
    learned = attention_scalars(initial, names), attention_scalars(trained.params, names)
    return features, sections.attention(drawing, *learned, dim)


def _features(before: Inside, after: Inside) -> dict[str, Any]:
    if len(after.users) == 1:
        return {"drawing": None}
    embeddings = {}
    for side in ("users", "items"):
        for when, inside in (("before training", before), ("after training", after)):
            logging.info("report: t-SNE of %s %s", side, when)
            embeddings[side, when] = embed(getattr(inside, side))
    return sections.features(figures.features(embeddings), embeddings)
