"""The settings of every run, whatever the model; a model's own stand beside it (rearm_jax/models/).

A fitted model can stand beside one that learns: `residual.model` names it, and its settings are there under `residual.`
as they are under `model.` where it stands alone.

`tuple` fields are overridden as `--config.data.modalities='("image","audio")'`; every other field as
`--config.model.rank=7`.
"""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rearm_jax import models
from rearm_jax.recommender.fitted import Fitted
from rearm_jax.settings import (
    CUT_OFFS,
    LOCAL_PATH,
    METRIC,
    MODALITIES,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    RESIDUAL_WEIGHTS,
    SWITCH,
    JointRule,
    Rule,
    Setting,
    choice,
    integer,
)


def is_fitted(model: str) -> bool:
    """Whether there is a model of this name, and it is one in closed form."""
    return model in models.names() and issubclass(models.find(model), Fitted)


SETTINGS = {
    "protocol": Setting(
        "strict",
        choice("strict", "reference"),
        '"strict": no leak; "reference": the published system with its leaks and quirks (see docs/fidelity.md)',
    ),
    "seed": Setting(0, integer(0), "of everything that is drawn: parameters, order, negatives, dropout, padding"),
    "num_epochs": Setting(
        1000,
        integer(1),
        "upper limit; early stopping usually ends the run before it. All are trained without validation",
    ),
    "init_from": Setting(
        "", PATH, "run folder to start from: its best parameters, matched by outside ids; see docs/output.md"
    ),
    "init_optimizer": Setting(False, SWITCH, "whether the state of that run's optimiser is taken over, too"),
    "negatives": Setting(
        "all",
        choice("all", "trained", "leaking"),
        'which items; "trained": those with a train interaction; "leaking": those that the user has in no split, '
        "not even in validation or test: only to measure what a model gains that knows the answers",
    ),
    "batch_size": Setting(2048, integer(1), "train interactions in a step, over all devices"),
    "eval_every": Setting(1, integer(1), "epochs between two evaluations on validation"),
    "patience": Setting(20, integer(0), "stop after more than this many evaluations without a gain"),
    "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
    "weight_decay": Setting(0.0, NOT_NEGATIVE, "AdamW, decoupled"),
    "schedule.name": Setting("constant", choice("constant", "cosine"), "of the learning rate"),
    "schedule.warmup_epochs": Setting(0, integer(0), "linear warm-up from 0"),
    "schedule.decay_epochs": Setting(0, integer(0), "cosine: epochs until the learning rate is 0"),
    "gradient_clip_norm": Setting(0.0, NOT_NEGATIVE, "global norm; 0 switches clipping off"),
    "parallel": Setting(
        "data",
        choice("data", "row"),
        'on several devices: "data" shares out the batch; "row" also cuts node tables and graphs over the devices',
    ),
    "ring_dtype": Setting(
        "float32",
        choice("float32", "bfloat16"),
        'of the node features that devices pass on to each other where parallel is "row" (sums stay float32)',
    ),
    "compute_dtype": Setting("float32", choice("float32", "bfloat16"), "of the dense layers (sums stay float32)"),
    "matmul_precision": Setting(
        "highest",
        choice("highest", "high", "default"),
        "of float32 products off the CPU: as float32 (six passes of bfloat16 on a TPU), of three passes or in TF32, "
        "or what the device does fastest; see docs/determinism.md",
    ),
    "data.source": Setting(
        "folder",
        choice("folder", "synthetic", "run"),
        'where the data come from; "run": the run folder holds them, as `train(..., dataset=...)` writes it',
    ),
    "data.root": Setting("", LOCAL_PATH, "folder of the data, in one of the layouts of docs/own-data.md"),
    "data.name": Setting(
        "", choice("", "baby", "sports", "clothing"), "the data set to download where root is missing"
    ),
    "data.download": Setting(True, SWITCH, "false: a missing root is an error"),
    "data.modalities": Setting(("image", "text"), MODALITIES, "in order; the first is the paper's visual one"),
    "data.num_users": Setting(
        0, integer(0), "0: as many as user_ids names, or else the largest user id of the splits + 1"
    ),
    "data.train_on": Setting(
        "train",
        choice("train", "all"),
        '"all": validation and test join train, as in a refit; nothing is scored, and the last epoch is the one to use',
    ),
    "data.synthetic.num_users": Setting(1000, integer(1), "of the synthetic data (rearm_jax/data/synthetic.py)"),
    "data.synthetic.num_items": Setting(600, integer(3), "of the synthetic data"),
    "data.synthetic.interactions_per_user": Setting(12, integer(3), "mean of the synthetic data"),
    "data.synthetic.feature_width": Setting(32, integer(1), "of each synthetic modality"),
    "data.synthetic.modalities": Setting(
        ("image", "text"), MODALITIES, "planted; data.modalities says which of them are seen"
    ),
    "data.synthetic.seed": Setting(0, integer(0), "of the synthetic data"),
    "graph.cache_dir": Setting(".cache/graphs", LOCAL_PATH, 'built graphs are kept here; "" switches the cache off'),
    "model.name": Setting(
        "rearm",
        Rule(
            str,
            "the name of a model: " + ", ".join(models.names()) + ", or one that rearm_jax.register has made known",
            lambda name: name in models.names(),
            choices=models.names(),
        ),
        "which model",
    ),
    "residual.model": Setting(
        "",
        Rule(
            str,
            '"", or the name of a fitted model: ' + ", ".join(filter(is_fitted, models.names())),
            lambda name: name == "" or is_fitted(name),
        ),
        "fitted model whose score is added to the model's own, both z-scored for each user; its settings follow, as "
        "`residual.` in place of `model.`",
    ),
    "residual.weights": Setting(
        (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0),
        RESIDUAL_WEIGHTS,
        "of the fitted model's score; the best by evaluation.metric on validation is kept",
    ),
    "evaluation.ks": Setting((5, 10, 20, 50), CUT_OFFS, "cut-offs of the ranking metrics", "items"),
    "evaluation.metric": Setting("recall@20", METRIC, "validation metric that picks the best checkpoint"),
    "evaluation.block_size": Setting(1024, integer(1), "users ranked at a time on one device"),
    "evaluation.test": Setting(
        True, SWITCH, "whether test is scored when a run ends; false while settings are searched: validation alone"
    ),
    "checkpoints.keep": Setting(
        "whole",
        choice("whole", "params"),
        'of the best step, once it is not among the latest two: "whole", or "params" (a third of the disk, but '
        "training cannot go back to it)",
    ),
    "log.progress": Setting(True, SWITCH, "progress bar (lines when stderr is not a terminal)"),
    "log.tensorboard": Setting(True, SWITCH, "TensorBoard events in the run folder"),
}

JOINT_RULES = (
    JointRule(
        "parallel",
        "model.name",
        '"data" for a model whose tables cannot be cut by row',
        lambda parallel, name: parallel != "row" or models.find(name).by_row,
    ),
    JointRule(
        "init_from",
        "model.name",
        '"" for a model that is fitted at once',
        lambda run, name: run == "" or not is_fitted(name),
    ),
    JointRule("init_optimizer", "init_from", "false without a run", lambda kept, run: run != "" or not kept),
    JointRule("evaluation.metric", "evaluation.ks", "at one of the cut-offs", lambda m, ks: int(m.split("@")[1]) in ks),
    JointRule(
        "data.root", "data.source", "the folder of the data", lambda root, source: root != "" or source != "folder"
    ),
    JointRule(
        "data.synthetic.interactions_per_user",
        "data.synthetic.num_items",
        "at most the number of items",
        operator.le,
    ),
    JointRule(
        "schedule.decay_epochs", "schedule.name", "at least 1 for cosine", lambda d, name: d > 0 or name != "cosine"
    ),
    JointRule(
        "schedule.warmup_epochs",
        "schedule.decay_epochs",
        "less than the decay",
        lambda w, decay: w < decay or not decay,
    ),
    JointRule(
        "residual.model",
        "model.name",
        '"" beside a model that is fitted itself',
        lambda residual, name: residual == "" or not is_fitted(name),
    ),
)

# What a resumed run may change, because no training step depends on it.
MAY_DIFFER = (
    "num_epochs",  # how long: a finished run can be trained on
    "patience",  # how long
    "checkpoints.keep",  # how much disk
    "log.progress",  # how loudly
    "log.tensorboard",  # how loudly
    "graph.cache_dir",  # where: cached graphs are found by the hash of what they are made of
    "data.root",  # where: the content hash guards what is in the folder
    "data.name",  # where from
    "data.download",  # where from
    "evaluation.block_size",  # how much memory: the metrics do not depend on it
    "parallel",  # how much memory on each device: checkpoints move from one to the other
)

# Fields that a config.json of an earlier version lacks, with the values that mean what that version did.
# (On the CPU, where they were run, the products are float32 at every precision.)
ADDED_LATER = {
    "data.name": "",
    "data.download": True,
    "data.train_on": "train",
    "init_from": "",
    "init_optimizer": False,
    "negatives": "all",
    "matmul_precision": "highest",
    "ring_dtype": "float32",
    "checkpoints.keep": "whole",
    "residual.model": "",
    "residual.weights": SETTINGS["residual.weights"].default,
    "evaluation.test": True,
}


def declared(model: str, residual: str = "") -> dict[str, Setting]:
    """Every setting of a run, by dotted name; what a model declares goes before what stands here.

    Args:
      model: `model.name`.
      residual: `residual.model`.
    """
    return SETTINGS | dict(models.find(model).settings) | residual_settings(residual)


def residual_settings(residual: str) -> dict[str, Setting]:
    """The settings of a fitted model where it stands beside another one; none for ""."""
    if not residual:
        return {}
    own = models.find(residual).settings.items()
    return {name.replace("model.", "residual.", 1): s for name, s in own if name.startswith("model.")}


def chosen(values: Mapping[str, Any]) -> tuple[str, str]:
    """The model that the values name, and the fitted one beside it; "" where there is none of that name."""
    model, residual = values.get("model.name"), values.get("residual.model")
    return (
        model if isinstance(model, str) and model in models.names() else "",
        residual if isinstance(residual, str) and is_fitted(residual) else "",
    )


def declared_by(values: Mapping[str, Any]) -> dict[str, Setting]:
    """Every setting of a run with the models that the values name."""
    model, residual = chosen(values)
    return declared(model, residual) if model else SETTINGS


def declarations() -> Iterator[tuple[str, str, Mapping[str, Setting]]]:
    """The field that chooses a model, the model's name, and the settings that come with it."""
    for name in models.names():
        yield "model.name", name, models.find(name).settings
        if is_fitted(name):
            yield "residual.model", name, residual_settings(name)


def defaults(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Dotted name -> default."""
    return {name: setting.default for name, setting in settings.items()}


def settings_of_others(model: str, residual: str) -> dict[str, list]:
    """Fields that only other models than these declare -> their defaults there."""
    own, others = declared(model, residual), dict[str, list]()
    for _, _, settings in declarations():
        for name, setting in settings.items():
            if name not in own:
                others.setdefault(name, []).append(setting.default)
    return others


def joint_rules(model: str) -> tuple[JointRule, ...]:
    """The rules between two settings of a run with this model."""
    return JOINT_RULES + tuple(models.find(model).joint_rules)


def get_config(model: str = "rearm", residual: str = "") -> ConfigDict:
    """The default settings of a model, and of a fitted one beside it: protocol strict, a folder of data that
    `data.root` must name.
    """
    values = {name: setting.default for name, setting in declared(model, residual).items()}
    values |= {"model.name": model, "residual.model": residual}
    return ConfigDict(nest(values))


def added_later(model: str) -> dict[str, Any]:
    """Fields that the config.json of an earlier version lacks, with the values that mean what that version did."""
    return ADDED_LATER | dict(models.find(model).added_later)


def nest(values: dict) -> dict:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    root: dict = {}
    for name, value in values.items():
        *sections, leaf = name.split(".")
        section = root
        for key in sections:
            section = section.setdefault(key, {})
        section[leaf] = value
    return root
