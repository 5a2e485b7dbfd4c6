"""What a comparison is: data sets x rows x settings tried x seeds. A spec is a file of Python with a get_spec().

    def get_spec() -> Spec:
        return Spec(data={"demo": demo.get_config()}, rows={"EASE": Row("ease"), "LightGCN": Row("lightgcn")},
                    reference="EASE", tries=10, seeds=5)

Models of one's own join by `register` in that file.
"""

import dataclasses
import os
import re
import runpy
import zlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rearm_jax import models
from rearm_jax.config import flatten, resolve
from rearm_jax.default import SETTINGS, chosen, declarations, declared, defaults, nest
from rearm_jax.errors import ConfigError, shown
from rearm_jax.recommender.fitted import Fitted
from rearm_jax.recommender.search_space import Range, SearchSpace, search_list
from rearm_jax.shipped import find_file

KEPT_METRICS = ("recall", "ndcg")  # of each user
_DATA_NAME, _ROW_NAME = r"\w[\w. -]*", r"[\w(+][\w .,+()-]*"
# What the comparison sets in every run: no spec can have test scored while settings are searched.
_OURS = ("seed", "evaluation.test", "evaluation.ks", "evaluation.metric", "log.progress", "log.tensorboard")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the tables: a model, as such or as a variant."""

    model: str
    # Dotted name -> value, fixed in every run of the row: parts switched off, another loss, `residual.model`.
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Where settings are looked for, in the place of the model's own `search_space`.
    space: SearchSpace | None = None
    # The first setting tried, a value for some names of the space; without it the defaults.
    start: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Another row with this model, whose final runs this one has, with a residual beside: nothing is trained again.
    trained: str | None = None


@dataclasses.dataclass(frozen=True)
class Prune:
    """After so many epochs, only the best share of a row's settings go on (Jamieson & Talwalkar, AISTATS 2016)."""

    epochs: int
    share: float

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.share <= 1:
            raise ConfigError(f"{self}: epochs must be at least 1, and share above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A comparison.

    Attributes:
        data: name -> a config, of which the settings that every run has are taken: data, epochs, batch size, patience.
            A model's own settings are its defaults, what its row fixes, and what is tried.
        rows: name -> row.
        reference: the row that the others are compared with.
        tries: settings tried for each data set and row, its start first.
        seeds: final runs of the best of them.
        ks: two cut-offs.
        metric: by which rows are compared.
        split: on which they are: "test", or while something is developed "valid": then test is never scored.
        select_by: by which epochs and settings are chosen on validation.
        prune: None, or the rule by which unpromising settings end early.
        timing: whether a last run of each row is made alone on the machine, for its times and memory.
    """

    data: Mapping[str, ConfigDict]
    rows: Mapping[str, Row]
    reference: str
    tries: int
    seeds: int
    ks: tuple[int, int] = (10, 20)
    metric: str = "ndcg@20"
    split: str = "test"
    select_by: str = "recall@20"
    prune: Prune | None = None
    timing: bool = True

    def check(self) -> None:
        """Refuses what cannot be run, before anything is.

        Raises:
          ConfigError: names it.
        """
        self._check_fields()
        for name in self.data:
            if not re.fullmatch(_DATA_NAME, name):
                raise ConfigError(f"data set {name!r}: its name becomes that of a file: letters, digits, _, . and -")
        for name in self.rows:
            if not re.fullmatch(_ROW_NAME, name) or name.endswith(" "):
                raise ConfigError(f"{name!r}: names are those of folders, too: letters, digits, blanks and _.,+-()")
        folders = [name.lower() for name in (*self.data, *self.rows)]
        if len(set(folders)) < len(folders):
            raise ConfigError(f"names must differ by more than capitals: {', '.join((*self.data, *self.rows))}")
        if self.reference not in self.rows:
            raise ConfigError(f"reference = {self.reference!r}: must be one of the rows, {', '.join(self.rows)}")
        metrics = [f"{name}@{k}" for name in KEPT_METRICS for k in self.ks]
        if self.metric not in metrics:
            raise ConfigError(f"metric = {self.metric!r}: must be one of {', '.join(metrics)}, which users' files have")
        for row, this in self.rows.items():
            self._check_trained(row)
            names = [*this.settings, *self.space(row)]
            if mine := [name for name in names if name in _OURS or name.startswith("data.")]:
                raise ConfigError(f"row {row}: {mine[0]} is set by the comparison in every run")
            if both := [name for name in this.settings if name in self.space(row)]:
                raise ConfigError(f"row {row}: {both[0]} is fixed, and in its space, too; leave it out of one of them")
            if beyond := [name for name in this.start if name not in self.space(row)]:
                raise ConfigError(f"row {row}: start has {beyond[0]}, and its space has not")
            if "model.name" in names or "residual.model" in self.space(row):
                raise ConfigError(f"row {row}: which model it is, is said by Row(model), and not searched")
        for data in self.data:
            for row in self.rows:
                for tried in self.settings_tried(data, row):
                    self.config(data, row, tried, 0, test=False)

    def _check_trained(self, row: str) -> None:
        this = self.rows[row]
        if this.trained is None:
            return
        where, other = f"row {row}: trained = {this.trained!r}", self.rows.get(this.trained)
        if other is None or other.model != this.model or other.trained is not None or self.is_closed_form(row):
            raise ConfigError(f"{where} must be the name of another row, with the model {this.model}, which is trained")
        beside = [*this.settings, *(this.space or {})]
        if other.settings.get("residual.model") or not this.settings.get("residual.model"):
            raise ConfigError(f"{where}: its settings must have a residual.model, and those of {this.trained} none")
        if mine := [name for name in beside if not name.startswith("residual.")]:
            raise ConfigError(f"{where}: {mine[0]} is that row's; this one sets and searches `residual.` alone")

    def _check_fields(self) -> None:
        kinds: dict[str, Any] = {
            "data": Mapping,
            "rows": Mapping,
            "reference": str,
            "tries": int,
            "seeds": int,
            "ks": tuple,
        }
        kinds |= {"metric": str, "split": str, "select_by": str, "prune": Prune | None, "timing": bool}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 1)):
                raise ConfigError(f"{name} = {shown(value)}: see rearm_jax.compare.Spec for what it must be")
        if not self.data or not self.rows:
            raise ConfigError("a comparison needs a data set and a row at least")
        if self.split not in ("test", "valid"):
            raise ConfigError(f"split = {self.split!r}: must be 'test' or 'valid'")
        for name, config in self.data.items():
            if not isinstance(name, str) or not isinstance(config, ConfigDict):
                raise ConfigError(f"data[{shown(name)}] = {shown(config)}: must be a name and a config")
            if flatten(config).get("data.train_on", "train") != "train":
                raise ConfigError(f"data[{name!r}]: data.train_on must be 'train': nothing would be left to score")
        for name, row in self.rows.items():
            is_row = isinstance(row, Row) and isinstance(row.trained, str | None)
            parts: tuple = (row.settings, {} if row.space is None else row.space, row.start) if is_row else (None,)
            if not isinstance(name, str) or not all(isinstance(part, Mapping) for part in parts):
                raise ConfigError(f"rows[{shown(name)}] = {shown(row)}: must be a name and a Row")
            for setting, where in parts[1].items():
                if not isinstance(where, Range):
                    raise ConfigError(f"row {name}: space[{setting!r}] = {shown(where)}: Uniform, LogUniform or Choice")

    def space(self, row: str) -> SearchSpace:
        """Where the settings of a row are looked for: what it fixes is not searched."""
        this = self.rows[row]
        if this.space is not None:
            return this.space
        if this.model not in models.names():
            raise ConfigError(f"row {row}: there is no model {this.model!r}; there are {', '.join(models.names())}")
        found = {} if this.trained else dict(models.find(this.model).search_space)
        if residual := this.settings.get("residual.model", ""):
            beside = models.find(residual).search_space
            found |= {name.replace("model.", "residual.", 1): where for name, where in beside.items()}
        return {name: where for name, where in found.items() if name not in this.settings}

    def fixed(self, row: str) -> dict[str, Any]:
        """What every run of a row has."""
        this = self.rows[row]
        return {**(self.rows[this.trained].settings if this.trained else {}), **this.settings}

    def settings_tried(self, data: str, row: str) -> list[dict[str, Any]]:
        """The settings tried, the row's start first; the first n of a longer list are the list of n.

        The list is the model's: a model that stands in two rows under two names is tuned alike in both.
        """
        this = self.rows[row]
        return [dict(this.start), *search_list(self.space(row), self.tries, _seed("settings", data, this.model))[1:]]

    def search_seed(self, data: str, row: str) -> int:
        """The seed of the runs that try settings, as the list the model's."""
        return _seed("search", data, self.rows[row].model)

    def final_seed(self, data: str, row: str, number: int) -> int:
        """The seed of a final run; rows have seeds of their own, as statistics take them."""
        return _seed("final", data, row) + number

    def num_seeds(self, row: str) -> int:
        """Final runs of a row: what is fitted in closed form is the same with every seed."""
        return 1 if self.is_closed_form(row) else self.seeds

    def is_closed_form(self, row: str) -> bool:
        """Whether the model is fitted."""
        return issubclass(models.find(self.rows[row].model), Fitted)

    def config(
        self, data: str, row: str, tried: Mapping[str, Any], seed: int, test: bool, num_epochs: int | None = None
    ) -> ConfigDict:
        """The config of a run.

        Args:
          data, row: names.
          tried: of `settings_tried`.
          seed: of the run.
          test: whether it scores test.
          num_epochs: at most; None: as the data set's config has it.

        Raises:
          ConfigError: names row and setting.
        """
        this = self.rows[row]
        fixed = {"model.name": this.model, "residual.model": "", **self.fixed(row)}
        model, residual = chosen(fixed)
        if not model or residual != fixed["residual.model"]:
            raise ConfigError(
                f"row {row}: model.name = {fixed['model.name']!r}, residual.model = {fixed['residual.model']!r}: must "
                f"be names of models, {', '.join(models.names())}"
            )
        of_models = {name for _, _, settings in declarations() for name in settings}
        given = flatten(self.data[data])
        common = {name: given[name] for name in SETTINGS if name in given and name not in of_models}
        ours = {
            "seed": seed,
            "evaluation.test": test,
            "evaluation.ks": self.ks,
            "evaluation.metric": self.select_by,
            "log.progress": False,
            "log.tensorboard": False,
        }
        values = defaults(declared(model, residual)) | common | fixed | dict(tried) | ours
        values |= {} if num_epochs is None else {"num_epochs": min(num_epochs, values["num_epochs"])}
        try:
            return resolve(ConfigDict(nest(values)))
        except ConfigError as error:
            raise ConfigError(f"row {row} on {data}: {error}") from error


def load_spec(path: str | os.PathLike) -> Spec:
    """The spec that a file's get_spec() returns, checked.

    Args:
      path: of a file, or the name of one that is shipped.

    Raises:
      ConfigError: the file cannot be run, or the spec is not possible.
    """
    path = find_file("spec", os.fspath(path))
    try:
        names = runpy.run_path(os.fspath(path))
        if "get_spec" not in names:
            raise ConfigError(f"--spec={path}: must define get_spec()")
        spec = names["get_spec"]()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a spec is a program: anything can go wrong in it
        raise ConfigError(f"--spec={path}: {type(error).__name__}: {error}") from error
    if not isinstance(spec, Spec):
        raise ConfigError(f"--spec={path}: get_spec() must return a rearm_jax.compare.Spec, not {type(spec).__name__}")
    spec.check()
    return spec


def _seed(*words: str) -> int:
    """Of names, whatever the order or the number of others; small enough for numbers to be added."""
    return zlib.crc32("/".join(words).encode()) % 2**30
