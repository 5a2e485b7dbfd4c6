"""The report of a run, for people: report.html, one file that needs nothing else, and its figures as PNG files."""

import os
from pathlib import Path

import numpy as np
from absl import logging

from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.experiment import init_params
from rearm_jax.inference.output import check_output_file, output_file
from rearm_jax.inference.report import figures, measures, page, sections
from rearm_jax.inference.report.drawing import Drawing, check_installed
from rearm_jax.inference.report.features import attention_scalars, embed, look_inside
from rearm_jax.inference.report.markup import Markup, join
from rearm_jax.inference.report.people import people, users_section
from rearm_jax.inference.trained import Trained
from rearm_jax.training.run_folder import read_result
from rearm_jax.training.writer import read_metrics


def write_report(trained: Trained, out: str | os.PathLike | None = None) -> None:
    """Writes the report of a finished run, each file whole or not at all.

    Args:
      trained: the run.
      out: the HTML file; without it <workdir>/report.html. The PNG files go to a folder of the same name without
        ".html", and replace those of an older report.

    Raises:
      ConfigError: matplotlib or scikit-learn is missing, `out` does not end in .html or cannot be written; before any
        work is done.
      CheckpointError: the run is not finished, does not score test, or a file of it is damaged.
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
            "--config.evaluation.test=True in another --workdir"
        )
    folder = path.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}, the folder of the PNG files, cannot be made: {error}") from error

    body, drawings = _contents(trained, result, records)
    files = {folder / f"{drawing.name}.png": drawing.png() for drawing in drawings}
    files[path] = page.render(_name(trained), body).encode()  # the last to be written: where it is, all is
    for file, content in files.items():
        with output_file(file) as temporary:
            temporary.write_bytes(content)
    logging.info("report: %s; its figures: %s", path, ", ".join(f"{folder}/{drawing.name}.png" for drawing in drawings))


def check_report(workdir: str | os.PathLike, out: str | os.PathLike | None) -> Path:
    """The file that the report goes to; to be asked before a run is opened, which takes longer.

    Raises:
      ConfigError: as `write_report`.
    """
    check_installed()
    path = Path(workdir, "report.html") if out is None else Path(out)
    if path.suffix != ".html":
        raise ConfigError(f"{path}: the report is an HTML file; give it a name that ends in .html")
    check_output_file(path)
    return path


def _contents(trained: Trained, result: dict, records: list[dict]) -> tuple[Markup, list[Drawing]]:
    """The page's body, and the drawings that it shows."""
    experiment, dataset = trained.experiment, trained.experiment.dataset
    metric, model = experiment.config.evaluation.metric, experiment.config.model.name
    k = int(metric.split("@")[1])

    about_training, training_drawings = _training(trained, result, records)
    (about_features, about_attention), modal_drawings = _modal(trained)

    logging.info("report: recall by group, graphs, neighbours")
    groups = measures.recall_by_group(dataset, trained.scores, k, experiment.config.evaluation.block_size)
    recall = figures.recall(*groups, sections.title(model), k)
    sides = measures.graph_sides(dataset, experiment.inputs)
    degrees = figures.degrees(sides)

    body = join(
        [
            page.head(_name(trained), dataset, result, metric),
            Markup("<main>"),
            users_section(people(trained), dataset.labels.item_names),
            about_training,
            about_features,
            sections.recall(recall, *groups, model, k),
            about_attention,
            sections.graphs(degrees, sides, model),
            _neighbours(trained),
            sections.numbers(result, experiment.config.to_dict()),
            Markup("</main>"),
            page.foot(result),
        ]
    )
    return body, [*training_drawings, *modal_drawings, recall, degrees]


def _training(trained: Trained, result: dict, records: list[dict]) -> tuple[Markup, list[Drawing]]:
    """The section on training; without a drawing for a fitted model."""
    if trained.is_fitted:
        return sections.without_training(result["model"]), []
    metric = trained.experiment.config.evaluation.metric
    drawing = figures.training(records, metric, result["best_epoch"])
    return sections.training(drawing, metric), [drawing]


def _neighbours(trained: Trained) -> Markup:
    """The section on nearest neighbours, which a model without vectors of items does not have."""
    dataset = trained.experiment.dataset
    if trained.is_fitted:
        return sections.without_neighbours(trained.experiment.config.model.name)
    counts = most_popular_scores(dataset.train, dataset.num_items).astype(np.int64)
    vectors = np.asarray(trained.representations.items)
    popular, rare = (measures.nearest_items(items, vectors) for items in measures.shown_items(counts))
    return sections.neighbours(popular, rare, dataset.labels.item_names, counts)


def _modal(trained: Trained) -> tuple[list[Markup], list[Drawing]]:
    """The sections on features and attention; without drawings for a model that has neither."""
    experiment, model = trained.experiment, trained.experiment.config.model.name
    if trained.is_fitted or "modal_items" not in trained.representations.views:
        return [sections.without_features(model), sections.without_attention(model)], []
    initial = init_params(experiment)
    before, after = look_inside(experiment, initial), look_inside(experiment, trained.params)
    embeddings = {}
    for side in ("users", "items"):
        for when, inside in (("before training", before), ("after training", after)):
            logging.info("report: t-SNE of %s %s", side, when)
            embeddings[side, when] = embed(getattr(inside, side))
    features = figures.features(embeddings)
    dim = experiment.config.model.embedding_dim
    attention = figures.attention(before.attention, after.attention, dim)
    names = list(experiment.dataset.features)
    scalars_before, scalars_after = attention_scalars(initial, names), attention_scalars(trained.params, names)
    texts = [
        sections.features(features, embeddings),
        sections.attention(attention, scalars_before, scalars_after, dim),
    ]
    return texts, [features, attention]


def _name(trained: Trained) -> str:
    return os.path.basename(os.path.abspath(trained.workdir))
