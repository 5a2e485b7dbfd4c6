"""The report of a comparison: what the page holds, and how it looks in a browser."""

import html
import json
import re
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rearm_jax.compare import figures
from rearm_jax.compare import report as report_module
from rearm_jax.compare.report import check_report, page, write_report
from rearm_jax.compare.results import read_results
from rearm_jax.compare.summary import summarise
from rearm_jax.errors import ConfigError
from tests.browser import CHROMIUM, Page, look_at
from tests.comparison import ROWS, write

pytest.importorskip("matplotlib", reason="the extra report is not installed: no matplotlib")
pytest.importorskip("jinja2", reason="the extra report is not installed: no jinja2")

EVIL = '<script>alert(1)</script> & "quotes" $math$ --> \''
FIGURES = {"intervals": 2, "tuning": 2, "time": 2}  # panels


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A comparison, one row of which has a name and an error that nobody would want in a page."""
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, EVIL, ROWS["REARM"])
        write(folder, rows=list(ROWS))
    return folder


@pytest.fixture(scope="module")
def summary(workdir):
    return summarise(read_results([workdir]), num_resamples=1000)


@pytest.fixture(scope="module")
def report(workdir, summary) -> Path:
    write_report(workdir, summary)
    return workdir / "report.html"


def section(path, anchor):
    """The HTML of a section."""
    return re.search(rf'<section id="{anchor}">(.*?)</section>', path.read_text("utf-8"), flags=re.DOTALL)[1]


def rows_of(part):
    """Caption -> name of the row -> text of the cells, of every table in some HTML."""
    tables = {}
    for caption, body in re.findall(r"<caption>(.*?)</caption>.*?<tbody>(.*?)</tbody>", part, flags=re.DOTALL):
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
        tables[html.unescape(caption)] = {
            html.unescape(row[0]): [html.unescape(cell) for cell in row[1:]] for row in rows
        }
    return tables


def test_one_file_that_needs_nothing_else(report, workdir):
    assert sorted(path.name for path in workdir.iterdir()) == [
        "compare.json",
        "report.html",
        "results.parquet",
        "users",
    ]
    text, found = report.read_text("utf-8"), Page(report)
    assert not found.all("script")
    assert "default-src 'none'" in text
    assert [a["href"] for a in found.all("link")] == ["data:,"]
    assert not re.search(r"(src|href|url\()=?['\"]?https?:", text)
    assert len(text) < 400_000


def test_nothing_of_a_name_or_an_error_becomes_a_tag(report):
    text = report.read_text("utf-8")
    assert "<script" not in text
    assert "<b>" not in text
    assert EVIL in rows_of(section(report, "chosen"))["baby: settings chosen"]
    assert "NonFiniteError: <b>loss</b> is nan at step 12 | a_b & c" in html.unescape(section(report, "failures"))


def test_the_head_says_what_was_found(report):
    head = Page(report).text.partition("Table Differences")[0]
    assert "Compared by NDCG@20 on test; settings were chosen by Recall@20 on validation." in head
    assert "240 users, 90 items; interactions: 3,000 train" in head
    [baby] = re.findall(r"On baby, (.*?)\.", head)
    better, tie, worse, pending = re.fullmatch(
        r"better than LightGCN: (.*); no difference to LightGCN found: (.*); worse than LightGCN: (.*); "
        "no final run yet: (.*)",
        baby,
    ).groups()
    assert {"EASE", "REARM"} <= set(better.split(", "))
    assert "LightGCN twin" in tie
    assert "MostPopular" in worse
    assert pending == "REARM, 3 layers"


def test_the_tables_are_those_of_the_summary(report, summary):
    tables = rows_of(section(report, "table"))
    assert list(tables)[:2] == ["baby: what is found on test", "baby: lists and costs"]
    found = tables["baby: what is found on test"]
    for row in summary.tables[0].rows:
        cells = found[f"{row.name} †" if row.name == "other_toolkit" else row.name]
        assert cells[1] == (f"{row.compared.mean:.5f}" if row.compared else "\N{EN DASH}")
    pairs = rows_of(section(report, "pairs"))["baby: all pairs"]
    assert len(pairs) == 8 * 7 // 2


def test_slices_are_means_over_seeds(report, workdir):
    runs = pl.read_parquet(workdir / "results.parquet")
    tables = rows_of(section(report, "slices"))
    by_history = tables["baby: NDCG@20 by train interactions of the user"]
    found = tables["baby: share found of what is to find, by train interactions of the item"]
    for name in ROWS:
        texts = runs.filter((pl.col("data") == "baby") & (pl.col("row") == name))["slices"].drop_nulls()
        seeds = [json.loads(text) for text in texts]
        for place in range(5):
            if not seeds:
                assert by_history[name][place] == found[name][place] == "\N{EN DASH}"
                continue
            mean = np.mean([seed["by_history"][place]["ndcg@20"] for seed in seeds])
            assert float(by_history[name][place]) == pytest.approx(mean, abs=6e-6)
            share = np.mean([seed["by_popularity"][place]["found"] / 64 for seed in seeds])
            assert float(found[name][place]) == pytest.approx(share, abs=6e-5)
    assert "1\N{EN DASH}4 (50 users)" in section(report, "slices")
    assert "0\N{EN DASH}3 (18 items, 64 to find)" in section(report, "slices")


def test_settings_chosen_and_failures(report, workdir):
    runs = pl.read_parquet(workdir / "results.parquet").filter(pl.col("data") == "office")
    chosen = rows_of(section(report, "chosen"))["office: settings chosen"]
    for name in ROWS:
        search = runs.filter((pl.col("row") == name) & (pl.col("kind") == "search"))
        if name == "other_toolkit":
            assert chosen[name] == ["\N{EN DASH}"] * 3
            continue
        best = max(
            (run for run in search.iter_rows(named=True) if run["status"] == "done"), key=lambda run: run["valid"]
        )
        which, valid, settings = chosen[name]
        assert which == f"{best['number'] + 1} of {len(search)}"
        assert valid == f"{best['valid']:.4f}"
        given = json.loads(best["settings"])
        assert settings == (", ".join(f"{key} = {value}" for key, value in given.items()) or "the defaults")
    for said in ("<td>setting 3</td><td>NonFiniteError", "<td>final run 2</td><td>killed</td>"):  # counted from 1
        assert said in section(report, "failures")
    assert len(re.findall("<tr>", section(report, "failures"))) - 1 == 2 * (
        3 + 1
    )  # data sets; runs of REARM, of its twin


def test_alternatives_in_words(report):
    labels = [attributes["aria-label"] for attributes in Page(report).all("div") if attributes.get("class") == "panel"]
    assert len(labels) == sum(FIGURES.values())
    assert re.search(r"LightGCN twin: \S0\.\d{5}, \S0\.\d{5} to \+0\.\d{5}, tie\.", labels[0])
    assert re.search(r"EASE: from 0\.\d{4} to 0\.\d{4}\.", labels[2])
    assert re.search(r"REARM: 0\.\d{4} after \d+ s\.", labels[4])


def test_page_is_accessible(report):
    found = Page(report)
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert max(np.diff(levels)) == 1
    assert len(found.all("table")) == len(found.all("caption")) == 4 + 4 + 2 + 1 + 2
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a[name][1:] for _, a in found.tags for name in ("href", "xlink:href") if a.get(name, "").startswith("#")}
    assert links <= set(ids)


def test_commands_and_versions_are_at_the_foot(report):
    foot = Page(report).text
    assert "--spec configs/compare/made_up.py --workdir runs/made_up" in foot
    assert "rearm_jax 0.1.0, numerics 1; 8 settings tried, 3 seeds" in foot
    assert "office: content c-office" in foot


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser(report, tmp_path, scheme):
    for view in look_at(report, tmp_path, scheme, FIGURES):
        wide = [table["caption"] for table in view["tables"] if table["hidden"] > 0]
        assert ("office: what is found on test" in wide) == (view["width"] == 390)


def test_before_the_first_final_run(tmp_path):
    write(tmp_path, rows=["REARM, 3 layers"], reference="REARM, 3 layers", data=["baby"])
    shown = page(summarise(read_results([tmp_path])))
    for said in (
        "There is nothing to compare with REARM, 3 layers yet.",
        "No time was measured yet.",
        "No final run yet.",
        "No run failed.",
        "there are no pairs yet",
        "On baby, no final run yet: REARM, 3 layers.",
    ):
        assert said in " ".join(shown.split())
    assert shown.count("<svg") == 1  # of the search


def test_a_row_has_the_same_colour_in_every_drawing_of_it(summary):
    """Also where rows before it are not shown, as they are not done."""
    [tuning, _], [time, _] = (
        figures.tuning(summary.tables, "recall@20").svgs(),
        figures.time(summary.tables).svgs(),
    )
    for svg in (tuning, time):
        assert [name for name in ("EASE", "LightGCN", "REARM") if f">{name}</text>" in svg] == [
            "EASE",
            "LightGCN",
            "REARM",
        ]


def test_a_missing_package_is_said_before_any_work(tmp_path, monkeypatch, summary):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"the report: matplotlib cannot be imported .* pip install '\.\[report\]'"):
        check_report()
    with pytest.raises(ConfigError, match="matplotlib"):
        write_report(tmp_path, summary)
    assert not list(tmp_path.iterdir())


def test_a_page_that_fails_leaves_the_old_one(tmp_path, monkeypatch, summary):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(report_module, "page", lambda summary: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path, summary)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"
