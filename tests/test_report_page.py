"""The report as a person gets it: files, what the page holds, and how it looks in a browser."""

import dataclasses
import html
import html.parser
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from rearm_jax.data.labels import make_labels
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.experiment import build_experiment, init_params
from rearm_jax.inference.trained import Trained, load_trained
from rearm_jax.report import figures, visualize
from rearm_jax.report.features import Embedding
from rearm_jax.report.page import head as head_of_page
from rearm_jax.report.page import render
from rearm_jax.report.people import people
from rearm_jax.report.visualize import write_report
from rearm_jax.training.loop import train
from rearm_jax.training.run_folder import read_result, write_result
from tests.browser import CHROMIUM, Page, look_at
from tests.conftest import tiny_config

for library in ("matplotlib", "sklearn"):
    pytest.importorskip(library, reason=f"the extra report is not installed: no {library}")
jinja2 = pytest.importorskip("jinja2", reason="the extra report is not installed: no jinja2")

TEMPLATES = Path(visualize.__file__).parent / "templates"
FIGURES = {"training": 2, "features": 4, "recall": 2, "attention": 2, "graphs": 3}  # panels
EVIL = '<script>alert(1)</script> & "quotes" $math$ --> \' \N{BLACK STAR}'


@pytest.fixture(scope="module")
def lightgcn(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("lightgcn")
    train(build_experiment(tiny_config(num_epochs=2, model__name="lightgcn")), str(folder))
    return load_trained(str(folder))


@pytest.fixture(scope="module")
def rearm(lightgcn, tmp_path_factory) -> Trained:
    """REARM as it begins (training it takes long), on items with names that nobody would want in a page."""
    experiment = build_experiment(tiny_config())
    dataset = experiment.dataset
    names = np.array([f"{number} {EVIL}" for number in range(dataset.num_items)])
    labels = make_labels({"item_names": names}, dataset.num_users, dataset.num_items)
    experiment = dataclasses.replace(experiment, dataset=dataclasses.replace(dataset, labels=labels))
    workdir = tmp_path_factory.mktemp("rearm & <b>run")
    groups = [{"train_interactions": [0, 2], "items": 8, "positives": 200, "found": 0}]
    changes = {"model": "rearm", "best_epoch": 1, "test/recall@10": 0.0, "test_by_popularity": groups}
    write_result(workdir, read_result(lightgcn.workdir) | changes)
    shutil.copy(Path(lightgcn.workdir, "metrics.jsonl"), workdir)
    return Trained(str(workdir), 0, experiment, init_params(experiment))


@pytest.fixture(scope="module")
def report(rearm) -> Path:
    write_report(rearm)
    return Path(rearm.workdir, "report.html")


def test_files(report):
    folder = report.with_suffix("")
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.png" for name in FIGURES)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = np.frombuffer(content[16:24], ">u4")
        assert min(width, height) > 400
    assert not list(report.parent.rglob("*.tmp"))


def test_page_holds_the_numbers_of_the_run(report, rearm):
    page, result = Page(report), read_result(rearm.workdir)
    for values in (result, *result["yardsticks"].values()):
        for split in ("valid", "test"):
            for metric in ("recall@10", "ndcg@5"):
                assert f"{values[f'{split}/{metric}']:.4f}" in page.text
    assert f"best epoch {result['best_epoch']} of 2" in page.text
    assert "model.self_dropout 0.4" in page.text
    for name in ("60 users", "40 items", "353 train"):
        assert name in page.text


def test_what_is_weak_stands_at_the_top(report, lightgcn, tmp_path):
    head = Page(report).text.partition("On the test split")[0]
    assert "does not beat recommending the most popular items to everyone: test/recall@10 is 0.0000" in head
    assert "finds nothing among the 8 items with 0 to 2 train interactions" in head
    assert not re.search("does not beat|finds nothing", Page(report).text.partition("On the test split")[2])
    good = {f"test/{name}@10": 1.0 for name in ("recall", "ndcg")} | {"test_by_popularity": []}
    result = read_result(lightgcn.workdir) | good
    head = head_of_page(lightgcn.experiment.dataset, result, "recall@10")
    assert 'class="weakness"' not in render("head.html", run="run", head=head)


def test_users_and_their_lists(report, rearm):
    """Ten users, near the top; histories are train items, lists are not, and what was held out is marked."""
    page, dataset = Page(report), rearm.experiment.dataset
    assert page.text.index("Users and their lists 10 users") < page.text.index("Training The best checkpoint")
    shown, splits = people(rearm), {}
    for split in ("train", "valid", "test"):
        splits[split] = {user: set() for user in range(dataset.num_users)}
        for user, item in getattr(dataset, split).tolist():
            splits[split][user].add(item)
    assert len({person.user for person in shown}) == 10
    scores = np.asarray(rearm.representations.users) @ np.asarray(rearm.representations.items).T
    for person in shown:
        had = splits["train"][person.user]
        assert person.num_train == len(had)
        assert len(set(person.history)) == len(person.history) == min(10, len(had))
        assert set(person.history) <= had
        best = sorted(set(range(dataset.num_items)) - had, key=lambda item: -scores[person.user, item])[:10]
        assert person.recommended == best
        assert (person.valid, person.test) == (splits["valid"][person.user], splits["test"][person.user])
        assert f"user {person.user} {len(had)} train interactions had" in page.text
    hits = [len(set(person.recommended) & held) for person in shown for held in (person.test, person.valid)]
    assert page.text.count("✓") == sum(hits) > 0


def modal_sections(folder: Path, **changes) -> str:
    """What a REARM with these settings, as it begins, shows of its features and of its attention."""
    experiment = build_experiment(tiny_config(**changes))
    features, attention = visualize._modal(Trained(str(folder), 0, experiment, init_params(experiment)))
    shown = {"model": "REARM", "features": features, "attention": attention}
    return " ".join(render(f"{name}.html", **shown) for name in ("features", "attention"))


def test_one_modality_is_not_told_of_others(tmp_path):
    words = modal_sections(tmp_path, data__modalities=("text",))
    for other in ("pushes apart", "all modalities", "across modalities", "another one asks", "one modality"):
        assert other not in words, other
    assert "Modal-unique (text)" in words


def test_what_is_switched_off_is_not_told_of(tmp_path):
    words = modal_sections(tmp_path, model__meta_network=False, model__attention="norm")
    assert "Modal-unique (image, text)" in words
    assert "REARM has no attention in this run" in words
    for other in ("Modal-shared", "meta-network", "coupling"):
        assert other not in words, other
    words = modal_sections(tmp_path, model__meta_network=False, data__modalities=("text",))
    assert "REARM has one kind of features in this run" in words
    assert "silhouette" not in words
    assert "coupling" in words


def test_page_needs_nothing_else(report):
    page = Page(report)
    assert not page.all("script")
    assert not page.all("img")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), attributes
        assert not [name for name in attributes if name.startswith("on")]
    text = report.read_text("utf-8")
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text


def test_names_are_text_not_markup(report, rearm):
    page = Page(report)
    assert "<script" not in report.read_text("utf-8").lower()
    neighbours = 2 * 4 * 6  # popular and rare, four of each, with five neighbours
    lists = sum(min(10, one.num_train) + len(one.recommended) for one in people(rearm))
    assert page.text.count(EVIL) == neighbours + lists
    assert Path(rearm.workdir).name in page.text


def test_templates_escape_all_but_the_drawings_and_show_what_is_there_or_fail():
    users = [{"name": EVIL, "interactions": EVIL, "history": [EVIL, EVIL], "recommended": [(EVIL, EVIL)]}]
    written = render("users.html", users=users)
    assert "<script" not in written
    assert html.unescape(written).count(EVIL) == 6
    with pytest.raises(jinja2.UndefinedError, match="'history'"):
        render("users.html", users=[{name: value for name, value in users[0].items() if name != "history"}])
    templates = [path.read_text("utf-8") for path in TEMPLATES.iterdir()]
    assert sum(len(re.findall(r"\bsafe\b|\bautoescape\b", text)) for text in templates) == 1  # matplotlib's SVG


def test_page_is_accessible(report):
    page = Page(report)
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert max(np.diff(levels)) == 1  # no level is left out
    assert len(page.all("table")) == len(page.all("caption")) > 4
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    panels = [attributes for attributes in page.all("div") if attributes.get("class") == "panel"]
    assert len(panels) == sum(FIGURES.values())
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 40 for attributes in panels)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a[name][1:] for _, a in page.tags for name in ("href", "xlink:href") if a.get(name, "").startswith("#")}
    assert links <= set(ids)


def test_figures_have_no_colour_of_their_own(report):
    for figure in re.findall(r"<svg.*?</svg>", report.read_text("utf-8"), flags=re.DOTALL):
        assert re.findall(r"(?:fill|stroke): (?!none|var\(--)[^;\"]+", figure) == []
        assert "mathdefault" not in figure


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser(report, tmp_path, scheme):
    for view in look_at(report, tmp_path, scheme, FIGURES):
        wide = [table["caption"] for table in view["tables"] if table["hidden"] > 0]
        assert ("Metrics" in wide) == (view["width"] == 390)


def test_every_part_of_the_loss_is_drawn():
    parts = [f"part {number}" for number in range(7)]
    records = [
        {"epoch": epoch, "train/loss": 7 / epoch, "train/grad_norm": 1.0, "valid/recall@10": 0.1, "valid/ndcg@10": 0.1}
        | {f"train/{part}": 1 / epoch for part in parts}
        for epoch in range(1, 4)
    ]
    losses, _ = figures.training(records, "recall@10", 2).svgs()
    assert [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", losses) if text in ("total", *parts)] == [
        "total",
        *parts,
    ]
    assert "grad_norm" not in losses


def test_every_kind_of_features_is_drawn():
    kinds = ["a", "b", "c", "d", "e", "shared"]
    random = np.random.default_rng(0)
    embedding = Embedding({kind: random.random((4, 2)) for kind in kinds}, 0.5)
    (drawn,) = figures.features({("users", "before training"): embedding}).svgs()
    assert [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn) if text in kinds] == kinds


def test_model_without_modalities(lightgcn, tmp_path):
    write_report(lightgcn, tmp_path / "look.html")
    page = Page(tmp_path / "look.html")
    assert "LightGCN has no modal-shared and modal-unique features" in page.text
    assert "LightGCN has no attention" in page.text
    assert "item 3" in page.text  # without names, items are called by their numbers
    assert sorted(path.stem for path in (tmp_path / "look").iterdir()) == ["graphs", "recall", "training"]


def test_bad_requests_write_nothing(rearm, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        write_report(rearm, tmp_path / "report")
    with pytest.raises(ConfigError, match="no folder"):
        write_report(rearm, tmp_path / "nowhere" / "report.html")
    (tmp_path / "taken").write_text("a file where the folder of the figures would be")
    with pytest.raises(ConfigError, match="PNG files, cannot be made"):
        write_report(rearm, tmp_path / "taken.html")
    unfinished = tmp_path / "run"
    shutil.copytree(rearm.workdir, unfinished, ignore=shutil.ignore_patterns("result.json", "report*"))
    with pytest.raises(CheckpointError, match=r"no result\.json: the run is not finished"):
        write_report(dataclasses.replace(rearm, workdir=str(unfinished)))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[report\]'"):
        write_report(rearm, tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "taken"]
    assert not list(unfinished.glob("report*"))
