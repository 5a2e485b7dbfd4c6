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
from rearm_jax.errors import ConfigError
from rearm_jax.recommender.fitted import Fitted
from rearm_jax.recommender.search_space import SearchSpace, search_list

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
        tries: settings tried for each data set and row, the defaults first.
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
        for name in [*self.data, *self.rows]:
            if not re.fullmatch(r"[\w(+][\w .,+()-]*", name):
                raise ConfigError(f"{name!r}: names are those of folders, too: letters, digits, blanks and _.,+-()")
        if not self.data or self.reference not in self.rows:
            raise ConfigError(f"reference = {self.reference!r}: must be one of the rows, {', '.join(self.rows)}")
        if self.tries < 1 or self.seeds < 1:
            raise ConfigError(f"tries = {self.tries}, seeds = {self.seeds}: both must be at least 1")
        if self.split not in ("test", "valid"):
            raise ConfigError(f"split = {self.split!r}: must be 'test' or 'valid'")
        for data in self.data:
            for row in self.rows:
                for tried in self.settings_tried(data, row):
                    self.config(data, row, tried, 0, test=False)

    def space(self, row: str) -> SearchSpace:
        """Where the settings of a row are looked for: what it fixes is not searched."""
        this = self.rows[row]
        if this.space is not None:
            return this.space
        if this.model not in models.names():
            raise ConfigError(f"row {row}: there is no model {this.model!r}; there are {', '.join(models.names())}")
        found = dict(models.find(this.model).search_space)
        if residual := this.settings.get("residual.model", ""):
            beside = models.find(residual).search_space
            found |= {name.replace("model.", "residual.", 1): where for name, where in beside.items()}
        return {name: where for name, where in found.items() if name not in this.settings}

    def settings_tried(self, data: str, row: str) -> list[dict[str, Any]]:
        """The settings tried, {} first; the first n of a longer list are the list of n.

        The list is the model's: a model that stands in two rows under two names is tuned alike in both.
        """
        return search_list(self.space(row), self.tries, _seed("settings", data, self.rows[row].model))

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
        fixed = {"model.name": this.model, "residual.model": "", **this.settings}
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
        if mine := [name for name in [*this.settings, *tried] if name in _OURS]:
            raise ConfigError(f"row {row}: {mine[0]} is set by the comparison in every run")
        values = defaults(declared(model, residual)) | common | fixed | dict(tried) | ours
        values |= {} if num_epochs is None else {"num_epochs": min(num_epochs, values["num_epochs"])}
        try:
            return resolve(ConfigDict(nest(values)))
        except ConfigError as error:
            raise ConfigError(f"row {row} on {data}: {error}") from error


def load_spec(path: str | os.PathLike) -> Spec:
    """The spec that a file's get_spec() returns, checked.

    Raises:
      ConfigError: the file cannot be run, or the spec is not possible.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"--spec={path}: there is no such file")
    try:
        spec = runpy.run_path(os.fspath(path))["get_spec"]()
    except ConfigError:
        raise
    except KeyError as error:
        raise ConfigError(f"--spec={path}: must define get_spec()") from error
    except Exception as error:  # a spec is a program: anything can go wrong in it
        raise ConfigError(f"--spec={path}: {type(error).__name__}: {error}") from error
    if not isinstance(spec, Spec):
        raise ConfigError(f"--spec={path}: get_spec() must return a rearm_jax.compare.Spec, not {type(spec).__name__}")
    spec.check()
    return spec


def _seed(*words: str) -> int:
    """Of names, whatever the order or the number of others; small enough for numbers to be added."""
    return zlib.crc32("/".join(words).encode()) % 2**30
