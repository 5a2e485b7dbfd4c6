"""The page: frame, head and foot around the sections."""

import importlib.resources
import re
import string
from collections.abc import Mapping

from rearm_jax.data.dataset import Dataset
from rearm_jax.report.markup import Markup, element, join
from rearm_jax.report.sections import SECTIONS, YARDSTICKS, title
from rearm_jax.training.outcome import headline_metrics, weaknesses


def render(title: str, body: str) -> str:
    """The whole page: `body`, which is markup, in the frame of page.html."""
    frame = string.Template(importlib.resources.files(__package__).joinpath("page.html").read_text("utf-8"))
    return frame.substitute(title=join([title]), body=body)


def head(run: str, dataset: Dataset, result: Mapping, metric: str) -> Markup:
    """Name of the run, its data, what is weak about it, and the headline metrics on test beside the yardsticks."""
    widths = ", ".join(f"{name} ({table.shape[1]} wide)" for name, table in dataset.features.items())
    data = (
        f"{dataset.num_users:,} users · {dataset.num_items:,} items · interactions: {len(dataset.train):,} train, "
        f"{len(dataset.valid):,} validation, {len(dataset.test):,} test · features: {widths}"
    )
    epochs = f"best epoch {result['best_epoch']} of {result['epochs']} · " if result["epochs"] else ""
    run_facts = (
        f"{epochs}{result['seconds']:,.0f} s of training on "
        f"{', '.join(result['devices'])} · seed {result['seed']} · protocol {result['protocol']}"
    )
    residual = result.get("residual")
    beside = f" + {residual['weight']:g} {title(residual['model'])}" if residual else ""
    links = [element("li", element("a", name, href=f"#{anchor}")) for anchor, name in SECTIONS.items()]
    return element(
        "header",
        element("p", f"{title(result['model'])}{beside} · a trained run", class_="kicker"),
        element("h1", run),
        element("p", data, class_="facts"),
        element("p", run_facts, class_="facts"),
        *(element("p", *_flags_as_code(text), class_="weakness") for text in weaknesses(result, metric)),
        element("p", "On the test split, beside two yardsticks:", class_="tiles-title"),
        element("div", *(_tile(name, result) for name in headline_metrics(metric)), class_="tiles"),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def foot(result: Mapping) -> Markup:
    """What the run was made with."""
    versions = " · ".join(f"{name} {version}" for name, version in result["versions"].items())
    return element("footer", element("p", versions), element("p", f"data: sha256 {result['content_hash']}"))


def _flags_as_code(text: str) -> list[str]:
    parts = re.split(r"(--[\w.]+(?:=[\w.-]*\w)?)", text)
    return [element("code", part) if part.startswith("--") else part for part in parts]


def _tile(metric: str, result: Mapping) -> Markup:
    key = f"test/{metric}"
    values = {title(result["model"]): result[key]}
    values |= {YARDSTICKS[name]: metrics[key] for name, metrics in result["yardsticks"].items()}
    largest = max(values.values()) or 1.0
    lines = []
    for place, (name, value) in enumerate(values.items()):
        bar = element("div", class_="bar first" if place == 0 else "bar", style=f"width: {value / largest:.1%}")
        lines += [
            element("dt", name),
            element("dd", f"{value:.4f}"),
            element("dd", bar, class_="track", aria_hidden="true"),
        ]
    return element(
        "div",
        element("h2", metric),
        element("p", f"{result[key]:.4f}", class_="value"),
        element("dl", *lines),
        class_="tile",
    )
