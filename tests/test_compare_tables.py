"""Tables of a comparison against numpy and scipy on what was handed over, and as people and LaTeX read them."""

import dataclasses
import json
import math
import re

import numpy as np
import polars as pl
import pytest
import scipy.stats

from rearm_jax.compare.cells import notes
from rearm_jax.compare.results import read_results, write_results
from rearm_jax.compare.summary import summarise
from rearm_jax.compare.tables import latex, markdown, write_tables
from tests.comparison import METRICS, NUM_SCORED, ROWS, about, write

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
EVIL = r"a_b & 50% $x$ #1 {y} ~^\ <b> | `z` [q] *w*"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, write(folder)


@pytest.fixture(scope="module")
def summary(written):
    return summarise(read_results([written[0]]), num_resamples=4000)


@pytest.fixture(scope="module")
def tables(summary):
    return markdown_tables(markdown(summary))


def markdown_tables(text):
    """Every table of a page: a dict a row, by the first cell; with escapes taken away."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        header, _, *rows = [
            [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        assert {len(row) for row in rows} == {len(header)}
        found.append({row[0]: dict(zip(header, row, strict=True)) for row in rows})
    return found


def latex_tables(text):
    """As `markdown_tables`, of LaTeX: what the text would be in print."""
    printed = {r"\textbackslash": "\\", r"\textasciitilde": "~", r"\textasciicircum": "^", r"\textless": "<"}
    printed |= {r"\textgreater": ">", r"\textbar": "|", r"\textdagger": "†", "$-$": MINUS, "--": DASH, r"$\pm$": "±"}
    printed |= {rf"\{character}": character for character in "&%$#_{}"}
    token = "|".join(re.escape(text) + (r"\{\}" if text[-1].isalpha() else "") for text in printed)
    found = []
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, flags=re.S):
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        rows = []
        for line in lines:
            assert line.endswith(r" \\")
            assert line[0] not in "[*"  # which the \\ of the line above would take for its own
            cells = re.split(r" (?<!\\)& ", line.removesuffix(r" \\").removeprefix("{}"))
            assert len(cells) == len(columns)
            rows.append([re.sub(token, lambda found: printed[found[0].removesuffix("{}")], cell) for cell in cells])
        header, *rows = rows
        found.append({row[0]: dict(zip(header, row, strict=True)) for row in rows})
    return found


def number(text):
    return float(text.replace(MINUS, "-").replace(",", "").replace("±", ""))


def scored(users, data, row, metric):
    """float32 (seeds, users with a positive), as the files hold them."""
    arrays = [metrics[metric] for (name, _), metrics in sorted(users[data].items()) if name == row]
    return np.stack([values[~np.isnan(values)] for values in arrays]).astype(np.float32).astype(np.float64)


def test_means_and_differences(written, tables):
    _, users = written
    for data, table in (("baby", tables[0]), ("office", tables[2])):
        assert [name.removesuffix(" †") for name in table] == list(ROWS)
        reference = scored(users, data, "LightGCN", "ndcg@20")
        for name, cells in table.items():
            row = name.removesuffix(" †")
            if row == "REARM, 3 layers":
                continue
            values = scored(users, data, row, "ndcg@20")
            assert values.shape[1] == NUM_SCORED
            assert number(cells["NDCG@20"]) == pytest.approx(values.mean(), abs=6e-6)
            for metric, head in zip(METRICS[1:], ("Recall@20", "NDCG@10", "Recall@10"), strict=True):
                assert number(cells[head]) == pytest.approx(scored(users, data, row, metric).mean(), abs=6e-6)
            if len(values) > 1:
                assert number(cells["sd"]) == pytest.approx(values.mean(axis=1).std(ddof=1), abs=6e-6)
            else:
                assert cells["sd"] == DASH
            if row != "LightGCN":
                difference = values.mean() - reference.mean()
                assert number(cells["difference to LightGCN"]) == pytest.approx(difference, abs=6e-6)
                low, high = map(number, cells["95% interval"].split(" to "))
                assert low < difference < high


def test_the_interval_of_two_models_in_closed_form_is_that_of_a_paired_t_test(written, tables):
    """There are no seeds to count in."""
    _, users = written
    differences = scored(users, "baby", "MostPopular", "ndcg@20")[0] - scored(users, "baby", "EASE", "ndcg@20")[0]
    low, high = scipy.stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = tables[4][f"MostPopular {MINUS} EASE"]
    assert [number(text) for text in found["95% interval"].split(" to ")] == pytest.approx([low, high], rel=0.02)


def test_p_is_that_of_the_pairs_adjusted_by_hand(summary):
    for table in summary.tables:
        others = [row for row in table.rows if row.verdict]
        p = {row.name: (table.pairs.get((row.name, "LightGCN")) or table.pairs["LightGCN", row.name]).difference.p
             for row in others}  # fmt: skip
        largest = 0.0
        for place, (name, value) in enumerate(sorted(p.items(), key=lambda pair: pair[1])):
            largest = max(largest, min(1.0, value * (len(p) - place)))
            [row] = [row for row in others if row.name == name]
            assert row.compared.holm == pytest.approx(largest)
            value = row.compared.difference.value
            assert row.verdict == ("tie" if largest >= 0.05 else "better" if value > 0 else "worse")


def test_verdicts(tables):
    """What was planted is found, twins are a tie; the others are neither called better nor worse."""
    verdicts = {name: cells["beside LightGCN"] for name, cells in tables[0].items()}
    planted = {"MostPopular": "worse", "EASE": "better", "REARM": "better", "LightGCN twin": "tie"}
    assert planted.items() <= verdicts.items()
    assert verdicts["LightGCN"] == "reference"
    assert verdicts["REARM, 3 layers"] == "pending"


def test_rows_that_want_a_word(summary, tables):
    seeds = {name: cells["seeds"] for name, cells in tables[0].items()}
    assert seeds["EASE"] == seeds["other_toolkit †"] == "1"
    assert seeds["LightGCN"] == "3"
    assert seeds["REARM"] == "2 of 3"
    assert seeds["REARM, 3 layers"] == "0 of 3"
    assert [name for name in seeds if "†" in name] == ["other_toolkit †"]
    text = markdown(summary)
    for said in (
        "† one seed: its interval knows nothing of other seeds.",
        "Pending, without a final run so far: REARM, 3 layers.",
        "whose seeds are not in the means: 1 of REARM.",
        "one seed is all there is: MostPopular, EASE.",
    ):
        assert text.count(said) == 2  # of two data sets


def test_where_the_final_runs_were_made(summary):
    [said] = {line for line in markdown(summary).splitlines() if line.startswith("- Final runs on")}
    on_card, on_cpu = said.removeprefix("- Final runs on NVIDIA H200: ").rstrip(".").split("; on cpu: ")
    assert on_cpu.split(", ") == ["MostPopular", "EASE"]
    assert {"LightGCN", "REARM"} < set(on_card.split(", "))
    assert "toolkit" not in said


def test_devices_that_differ_or_are_not_known_are_told(summary):
    [table, *_] = summary.tables
    kinds = {"EASE": {None}, "LightGCN": {None, "cpu"}, "REARM": {"NVIDIA H200", "cpu"}}
    rows = [dataclasses.replace(row, devices=kinds.get(row.name, set())) for row in table.rows]
    said = ["NVIDIA H200 and cpu: REARM", "cpu and what was not noted: LightGCN", "what was not noted: EASE"]
    assert f"Final runs on {'; on '.join(said)}." in notes(dataclasses.replace(table, rows=rows), summary)
    nothing = [dataclasses.replace(row, devices={None}) for row in table.rows]
    assert not any("Final runs on" in note for note in notes(dataclasses.replace(table, rows=nothing), summary))


def test_costs(written, tables):
    folder, _ = written
    runs = pl.read_parquet(folder / "results.parquet")
    for data, table in (("baby", tables[1]), ("office", tables[3])):
        for name, cells in table.items():
            of_row = runs.filter((pl.col("data") == data) & (pl.col("row") == name))
            search = of_row.filter(pl.col("kind") == "search")["status"].to_list()
            counts = [str(len(search)), str(search.count("failed")), str(search.count("pruned"))]
            known = name != "other_toolkit"
            assert [cells[head] for head in ("settings tried", "failed", "pruned")] == (counts if known else [DASH] * 3)
            timing = of_row.filter(pl.col("kind") == "timing")
            if len(timing):
                fitted = name in ("MostPopular", "EASE")
                seconds = timing["seconds" if fitted else "seconds_to_best"][0]
                assert number(cells["seconds to the best"]) == pytest.approx(seconds, abs=0.006)
                assert number(cells["peak memory, MiB"]) == round(timing["peak_bytes"][0] / 1024**2)
            else:
                assert cells["seconds to the best"] == cells["peak memory, MiB"] == DASH
            lists = [json.loads(text)["lists"] for text in of_row["slices"].drop_nulls()]
            if lists:
                mean = sum(one["gini@20"] for one in lists) / len(lists)
                assert number(cells["Gini@20"]) == pytest.approx(mean, abs=6e-4)
    assert [head for head in tables[1]["REARM"] if "@" in head] == ["Coverage@20", "Gini@20", "Novelty@20"]
    assert tables[1]["REARM"]["failed"] == "2"
    assert tables[1]["FREEDOM/no graph"]["pruned"] == "1"
    assert tables[1]["EASE"]["parameters"] == "8,100"


def test_all_pairs(written, tables):
    _, users = written
    pairs, rows = tables[4], [row for row in ROWS if row != "REARM, 3 layers"]
    assert list(pairs) == [f"{a} {MINUS} {b}" for place, a in enumerate(rows) for b in rows[place + 1 :]]
    means = {row: scored(users, "baby", row, "ndcg@20").mean(axis=0) for row in rows}
    for a, b in (("LightGCN", "LightGCN twin"), ("EASE", "REARM"), ("FREEDOM/no graph", "other_toolkit")):
        cells, differences = pairs[f"{a} {MINUS} {b}"], means[a] - means[b]
        assert number(cells["difference in NDCG@20"]) == pytest.approx(differences.mean(), abs=6e-6)
        for head, p in (
            ("paired t", scipy.stats.ttest_rel(means[a], means[b]).pvalue),
            ("Wilcoxon", scipy.stats.wilcoxon(differences, zero_method="pratt").pvalue),
        ):
            if p < 1e-4:
                assert cells[head] == "<0.0001"
            else:
                assert number(cells[head]) == pytest.approx(p, abs=1e-3)


def test_numbers_that_are_compared_have_the_same_decimals(tables):
    for table in tables:
        for head in next(iter(table.values())):
            texts = [cells[head] for cells in table.values() if re.search(r"\.\d", cells[head])]
            assert len({len(text.rpartition(".")[2]) for text in texts if not text.startswith("<")}) <= 1, head


def test_a_time_that_is_too_short_to_be_written_is_not_0(written, tmp_path):
    folder, users = written
    runs = pl.read_parquet(folder / "results.parquet").to_dicts()
    for run in runs:
        if run["kind"] == "timing" and run["row"] == "MostPopular":
            run["seconds"] = 2e-4
    write_results(tmp_path, about(), runs, users)
    table = markdown_tables(markdown(summarise(read_results([tmp_path]), 200)))[1]
    assert table["MostPopular"]["seconds to the best"] == "<0.001"
    assert re.fullmatch(r"0\.\d{3}", table["EASE"]["seconds to the best"])


def test_small_differences_get_more_decimals(tmp_path):
    """A standard error of 3e-6 is not written as 0.0000."""
    rng = np.random.default_rng(0)
    base = rng.random(NUM_SCORED) / 10
    users = {("A", 0): {"ndcg@20": base}, ("B", 0): {"ndcg@20": base + rng.normal(0, 4e-5, NUM_SCORED)}}
    runs = [{"data": "d", "row": row, "kind": "final", "number": 0, "status": "done", "numerics": 1} for row in "AB"]
    head = about(rows=["A", "B"], reference="A", data=["d"])
    head["data"]["d"]["users"] = NUM_SCORED
    write_results(tmp_path, head, [run | {"closed_form": True} for run in runs], {"d": users})
    table = markdown_tables(markdown(summarise(read_results([tmp_path]), 500)))[0]
    assert re.fullmatch(r"0\.\d{7}", table["B"]["NDCG@20"])


def test_latex_says_the_same(summary, tables):
    found = latex_tables(latex(summary))
    assert len(found) == len(tables) == 6
    assert found == tables


def test_columns_stand_under_each_other(summary):
    for block in re.findall(r"(?:^\|.*\n)+", markdown(summary), flags=re.M):
        assert len({tuple(m.start() for m in re.finditer(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_command_versions_and_data_are_in_both(summary):
    for text in (markdown(summary), latex(summary)):
        for part in ("--spec configs/compare/made_up.py", "0.1.0, numerics 1", "8 settings tried, 3 seeds", "c-office"):
            assert part in text
    preamble = latex(summary).split("\n\n")[0]
    assert all(line.startswith("% ") for line in preamble.splitlines())


def test_names_that_mean_something_to_markdown_and_latex(tmp_path, monkeypatch):
    names = {EVIL: ROWS["EASE"], "[x]": ROWS["LightGCN"], "*y": ROWS["MostPopular"]}
    for name, row in names.items():
        monkeypatch.setitem(ROWS, name, row)
    write(tmp_path, rows=list(names), reference="[x]", data=["d_1"], command=f"run {EVIL}\n\\end{{document}}")
    summary = summarise(read_results([tmp_path]), 200)
    text, tex = markdown(summary), latex(summary)
    assert list(markdown_tables(text)[0]) == list(latex_tables(tex)[0]) == list(names)
    assert markdown_tables(text) == latex_tables(tex)
    code = [line for line in tex.splitlines() if not line.startswith("% ")]
    assert not any("document" in line for line in code)
    bare = re.sub(r"\\[{}\\]", "", "\n".join(code))
    assert bare.count("{") == bare.count("}")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0


def test_without_the_reference_there_are_no_differences(tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS, "LightGCN", (0.05, "lightgcn", "searching"))
    write(tmp_path, data=["baby"])
    text = markdown(summarise(read_results([tmp_path]), 200))
    table = markdown_tables(text)[0]
    assert {cells["difference to LightGCN"] for cells in table.values()} == {DASH}
    assert "LightGCN, the reference, has no final run yet: there are no differences of NDCG@20." in text
    assert number(table["EASE"]["NDCG@20"]) > 0.02
    assert number(table["LightGCN twin"]["sd"]) > 0


def test_workdirs_that_are_joined_give_the_tables_of_one(written, tables, tmp_path):
    folder, users = written
    runs = pl.read_parquet(folder / "results.parquet").to_dicts()
    parts = [("baby", list(ROWS)[:4]), ("office", list(ROWS)), ("baby", list(ROWS)[4:])]
    for number, (data, rows) in enumerate(parts):
        (tmp_path / str(number)).mkdir()
        write_results(
            tmp_path / str(number),
            about(rows=rows, data=[data], reference="LightGCN" if number < 2 else rows[0]),
            [run for run in runs if run["data"] == data and run["row"] in rows],
            {data: {(row, n): metrics for (row, n), metrics in users[data].items() if row in rows}},
        )
    joined = summarise(read_results([tmp_path / str(number) for number in range(3)]), num_resamples=4000)
    text = markdown(joined)
    assert markdown_tables(text) == tables
    assert text.count("    python -m rearm_jax.compare") == 3


def test_lists_of_one_data_set_are_no_row_of_another(written, tmp_path):
    folder, users = written
    runs = [
        run
        for run in pl.read_parquet(folder / "results.parquet").to_dicts()
        if (run["data"], run["row"]) != ("office", "other_toolkit")
    ]
    left = {key: metrics for key, metrics in users["office"].items() if key[0] != "other_toolkit"}
    write_results(tmp_path, about(), runs, users | {"office": left})
    found = markdown_tables(markdown(summarise(read_results([tmp_path]), 200)))
    assert list(found[0])[6:] == ["other_toolkit †", "REARM, 3 layers"]
    assert list(found[2])[5:] == ["FREEDOM/no graph", "REARM, 3 layers"]


def test_before_the_first_final_run(tmp_path):
    write(tmp_path, rows=["REARM, 3 layers"], reference="REARM, 3 layers", data=["baby"])
    summary = summarise(read_results([tmp_path]))
    [quality, cost] = markdown_tables(markdown(summary))
    assert quality["REARM, 3 layers"]["beside REARM, 3 layers"] == "pending"
    assert cost["REARM, 3 layers"]["settings tried"] == "3"
    assert latex_tables(latex(summary)) == [quality, cost]


def test_the_best_so_far_leaves_out_what_failed(written, summary):
    folder, _ = written
    runs = pl.read_parquet(folder / "results.parquet")
    for row in summary.tables[0].rows:
        search = runs.filter((pl.col("data") == "baby") & (pl.col("row") == row.name) & (pl.col("kind") == "search"))
        assert row.best_so_far.shape == (len(search),)
        best, chosen = -math.inf, None
        for run, so_far in zip(search.sort("number").iter_rows(named=True), row.best_so_far, strict=True):
            if run["status"] == "done" and run["valid"] > best:
                best, chosen = run["valid"], (run["number"], json.loads(run["settings"]), run["valid"])
            assert so_far == best
        assert row.chosen == chosen


def test_files_are_written_whole(summary, tmp_path):
    (tmp_path / "table.md").write_text("old")
    write_tables(tmp_path, summary)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.md", "table.tex"]
    assert (tmp_path / "table.md").read_text("utf-8") == markdown(summary)
    assert (tmp_path / "table.tex").read_text("utf-8") == latex(summary)
