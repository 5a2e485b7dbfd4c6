"""The page: the templates filled in, and what its head and foot show."""

import functools
import re
from collections.abc import Mapping
from typing import Any

from rearm_jax.data.dataset import Dataset
from rearm_jax.report.sections import YARDSTICKS, title
from rearm_jax.training.outcome import headline_metrics, weaknesses


def render(template: str, package: str = __package__, **shown: Any) -> str:
    """A file of templates/ filled in; all text is escaped.

    Args:
      template: its name; "page.html" is the whole page, the others are parts of it.
      package: whose templates/ it is in; what is not there is looked for in this package's.
      shown: what the template names.

    Raises:
      jinja2.UndefinedError: the template names something that is not in `shown`.
    """
    return _environment(package).get_template(template).render(shown)


def head(dataset: Dataset, result: Mapping, metric: str) -> dict[str, Any]:
    """Of the run: its data, what is weak about it, and the headline metrics on test beside the yardsticks."""
    widths = ", ".join(f"{name} ({table.shape[1]} wide)" for name, table in dataset.features.items())
    data = (
        f"{dataset.num_users:,} users · {dataset.num_items:,} items · interactions: {len(dataset.train):,} train, "
        f"{len(dataset.valid):,} validation, {len(dataset.test):,} test · features: {widths}"
    )
    epochs = f"best epoch {result['best_epoch']} of {result['epochs']} · " if result["epochs"] else ""
    training = (
        f"{epochs}{result['seconds']:,.0f} s of training on "
        f"{', '.join(result['devices'])} · seed {result['seed']} · protocol {result['protocol']}"
    )
    residual = result.get("residual")
    beside = f" + {residual['weight']:g} {title(residual['model'])}" if residual else ""
    return {
        "models": title(result["model"]) + beside,
        "facts": [data, training],
        "weaknesses": [_flags_apart(text) for text in weaknesses(result, metric)],
        "tiles": [_tile(name, result) for name in headline_metrics(metric)],
    }


def foot(result: Mapping) -> dict[str, str]:
    """What the run was made with."""
    versions = " · ".join(f"{name} {version}" for name, version in result["versions"].items())
    return {"versions": versions, "content_hash": result["content_hash"]}


@functools.cache
def _environment(package: str) -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(package), PackageLoader(__package__)])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _flags_apart(text: str) -> list[str]:
    """The text in parts; those that are flags of the command line start with two hyphens."""
    return re.split(r"(--[\w.]+(?:=[\w.-]*\w)?)", text)


def _tile(metric: str, result: Mapping) -> dict[str, Any]:
    """A metric with a bar for the model and for each yardstick: name, value, and width as a share of the longest."""
    key = f"test/{metric}"
    values = {title(result["model"]): result[key]}
    values |= {YARDSTICKS[name]: metrics[key] for name, metrics in result["yardsticks"].items()}
    largest = max(values.values()) or 1.0
    bars = [(name, f"{value:.4f}", f"{value / largest:.1%}") for name, value in values.items()]
    return {"metric": metric, "value": f"{result[key]:.4f}", "bars": bars}
