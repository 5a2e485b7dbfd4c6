"""Settings: the declarations, the shipped configs, refusals, models, JSON, differences and the command line."""

import ast
import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags

from rearm_jax import default, models
from rearm_jax.command_line import parse_flags
from rearm_jax.config import (
    check_against_data,
    check_config,
    differences,
    for_its_model,
    from_json,
    resolve,
    shown,
    to_json,
    with_model,
)
from rearm_jax.data.download import DATASETS
from rearm_jax.errors import ConfigError
from rearm_jax.program import DONE, run_program

ROOT = Path(__file__).parent.parent
SCHEMA = {name: setting.rule for name, setting in default.declared("rearm").items()}  # of the demo
SHIPPED = ("demo", "baby", "sports", "clothing", "tiktok", "tiktok:lightgcn")


def shipped(name: str) -> ConfigDict:
    module, *variant = name.split(":")
    return importlib.import_module(f"configs.{module}").get_config(*variant)


def leaves(section: dict, prefix: str = "") -> dict:
    """Dotted name -> value, without the schema's help."""
    result = {}
    for key, value in section.items():
        result |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def demo_with(changes: dict) -> ConfigDict:
    """The demo with other values, set without ml_collections' own type checks."""
    tree = shipped("demo").to_dict()
    for name, value in changes.items():
        *sections, leaf = name.split(".")
        section = tree
        for key in sections:
            section = section[key]
        section[leaf] = value
    return ConfigDict(tree)


def refusal(config: ConfigDict) -> list[str]:
    """The lines of the error."""
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("model", models.names())
def test_every_setting_is_declared_with_a_default_that_its_rule_accepts(model):
    settings = default.declared(model)
    fields = leaves(default.get_config(model).to_dict())
    assert fields == {name: setting.default for name, setting in settings.items()} | {"model.name": model}
    for name, value in fields.items():
        rule = settings[name].rule
        assert rule.many == isinstance(value, tuple)
        assert all(type(v) is rule.kind for v in (value if rule.many else (value,))), name
        assert rule.accepts(value), name
        assert settings[name].meaning, name
        assert settings[name].at_most in ("", "users", "items")
    assert set(default.added_later(model)) <= set(settings)


def test_default_lacks_nothing_but_the_folder():
    config = default.get_config()
    [line] = refusal(config)
    assert line.startswith("data.root = ''")
    config.data.root = "data"
    check_config(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_pass_and_have_the_default_fields(name):
    config = shipped(name)
    check_config(config)
    assert set(leaves(config.to_dict())) == set(default.declared(config.model.name))


# The table of the paper's settings: name, L, reg_weight, rank, s_drop, m_drop, w_u, w_i, uu_co, ii_co, user_k, item_k,
# ii layers, uu layers, cl_tmp, cl_w, diff_w.
PAPER = [
    ("baby", 4, 5e-4, 3, 0.4, 0.6, 0.2, 0, 0.4, 0.2, 40, 10, 1, 1, 0.6, 5e-6, 5e-5),
    ("sports", 5, 0.05, 7, 1, 0.2, 0, 0.2, 0.9, 0.2, 25, 5, 2, 2, 1.5, 1e-3, 5e-4),
    ("clothing", 4, 1e-5, 3, 0.4, 0.1, 0.1, 0.1, 0.7, 0.1, 45, 10, 1, 1, 0.03, 1e-6, 1e-5),
]


@pytest.mark.parametrize("row", PAPER, ids=lambda row: row[0])
def test_paper_configs_equal_the_table(row):
    name, *expected = row
    c = shipped(name)
    g, m, loss = c.graph, c.model, c.loss
    found = [m.num_layers, c.weight_decay, m.rank, m.self_dropout, m.cross_dropout]
    found += [g.user_modality_weights[0], g.item_modality_weights[0]]
    found += [g.user_cooccurrence_weight, g.item_cooccurrence_weight, g.user_knn_k, g.item_knn_k]
    found += [m.num_item_layers, m.num_user_layers, loss.temperature, loss.contrastive_weight, loss.orthogonal_weight]
    assert found == expected
    assert (m.name, m.embedding_dim, m.train_meta_projection, loss.l2_weight) == ("rearm", 64, False, 0)
    assert (c.protocol, c.batch_size, c.patience, c.learning_rate) == ("reference", 2048, 20, 5e-5)
    assert (c.schedule.name, c.schedule.warmup_epochs, c.gradient_clip_norm) == ("constant", 0, 0)
    assert (c.data.source, c.data.root, c.data.modalities) == ("folder", f"data/{name}", ("image", "text"))
    assert (c.data.name, c.data.download) == (name, True)
    assert sum(g.user_modality_weights) == sum(g.item_modality_weights) == 1


def test_the_names_of_data_sets_are_those_that_can_be_downloaded():
    names = ("", *DATASETS)
    assert [name for name in (*names, "tiktok", "Baby") if SCHEMA["data.name"].accepts(name)] == list(names)


def test_tiktok_variants():
    rearm, lightgcn = shipped("tiktok"), shipped("tiktok:lightgcn")
    assert (rearm.model.name, lightgcn.model.name) == ("rearm", "lightgcn")
    for config in (rearm, lightgcn):
        assert (config.protocol, config.data.modalities) == ("strict", ("image", "audio"))
    with pytest.raises(ConfigError, match=r'"lightgnc".*"lightgcn"'):
        shipped("tiktok:lightgnc")


NAN, INF = math.nan, math.inf
POSITIVE = (0, -1, 0.0, 1e-50, 1e39, NAN, INF, True, "1", None, (1.0,))
NOT_NEGATIVE = (-1e-9, -1, 1e39, 10**400, NAN, INF, -INF, False, "0", None, [0.5])
FRACTION = (-0.001, 1.001, 2, NAN, INF, True, "0.5", None)
COUNT = (0, -1, 2**31, 1.0, True, "1", None, (1,))
SWITCHES = ("meta_network", "heterography", "id_embeddings", "train_features", "unit_features")
RELATIONS = ("user_cooccurrence", "user_interest", "item_cooccurrence", "item_semantic")
BAD = {
    **dict.fromkeys(("learning_rate", "loss.temperature", "loss.ranking_temperature", "model.init_scale"), POSITIVE),
    **dict.fromkeys(("weight_decay", "gradient_clip_norm", "loss.contrastive_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("loss.orthogonal_weight", "loss.l2_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("model.self_dropout", "model.cross_dropout"), FRACTION),
    **dict.fromkeys(("graph.user_cooccurrence_weight", "graph.item_cooccurrence_weight"), FRACTION),
    **dict.fromkeys(("num_epochs", "batch_size", "eval_every", "graph.user_knn_k", "graph.item_knn_k"), COUNT),
    **dict.fromkeys(("model.embedding_dim", "model.rank", "evaluation.block_size", "loss.num_negatives"), COUNT),
    **dict.fromkeys(("data.synthetic.num_users", "data.synthetic.feature_width"), COUNT),
    **dict.fromkeys(("data.synthetic.num_items", "data.synthetic.interactions_per_user"), (*COUNT, 2)),
    **dict.fromkeys(("seed", "patience", "model.num_layers", "data.num_users", "data.synthetic.seed"), COUNT[1:]),
    **dict.fromkeys(("model.num_user_layers", "model.num_item_layers"), COUNT[1:]),
    **dict.fromkeys(("schedule.warmup_epochs", "schedule.decay_epochs"), COUNT[1:]),
    **dict.fromkeys(("log.progress", "log.tensorboard", "model.train_meta_projection"), (0, 1, "true", None)),
    **dict.fromkeys((f"model.{name}" for name in SWITCHES), (0, 1, "true", None)),
    **dict.fromkeys((f"graph.{name}" for name in RELATIONS), (0, 1, "true", None)),
    "model.attention": ("", "Full", "off", None, True),
    "loss.ranking": ("", "BPR", "hinge", None, 1),
    "loss.similarity": ("", "Dot", "euclid", None, 1),
    "matmul_precision": ("", "HIGHEST", "float32", None, 1),
    **dict.fromkeys(("data.download", "evaluation.test", "init_optimizer"), (0, 1, "true", None)),
    "data.train_on": ("", "All", "valid", None, True),
    "data.name": ("tiktok", "Baby", "../baby", None, 0),
    "init_from": (0, None, ("a",), False),
    **dict.fromkeys(("data.root", "graph.cache_dir"), (0, None, ("a",), False, "gs://bucket/folder")),
    **dict.fromkeys(
        ("protocol", "negatives", "schedule.name", "compute_dtype", "ring_dtype", "parallel"),
        ("", "Strict", "float64", None, 0, ("strict",)),
    ),
    "checkpoints.keep": ("", "best", "Params", None, 2, ("whole",)),
    **dict.fromkeys(("data.source", "model.name"), ("", "REARM", "folder ", None, 1)),
    "graph.knn": ("", "Exact", "approximate", None, 1, ("auto",)),
    "graph.ties": ("", "Drawn", "seeded", None, 1, ("drawn",)),
    "residual.model": ("rearm", "EASE", "ease ", None, 1, ("ease",)),
    "residual.weights": ((), (-0.1,), (0.5, 0.5), (NAN,), (INF,), (True,), ("1",), [0.5], 0.5, None),
    "evaluation.ks": ((), (0,), (-5,), (5, 5), (5, 20.0), (True, 20), ("20",), [20], 20, None),
    "evaluation.metric": ("recall", "recall@", "@20", "auc@20", "recall@0", "recall@20 ", "Recall@20", "recall@²", 20),
    **dict.fromkeys(
        ("data.modalities", "data.synthetic.modalities"),
        ((), ("a", "a"), ("a b",), ("é",), ("../a",), ("",), ("1a",), ("id",), ("a", 1), "image", None),
    ),
    **dict.fromkeys(
        ("graph.user_modality_weights", "graph.item_modality_weights"),
        ((-0.5, 1.5), (0.5, 0.4), (0.5, 0.500002), (NAN, 1), (True, 0), ("1", 0), (10**400, 0), [0.5, 0.5], 1.0),
    ),
}


def test_every_field_has_bad_values():
    assert set(BAD) == set(SCHEMA)


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_with_field_value_and_what_is_allowed(name):
    for value in BAD[name]:
        lines = refusal(demo_with({name: value}))
        [line] = lines
        said = f"{name} = {shown(value)}: must be {SCHEMA[name].allowed}"
        assert re.fullmatch(re.escape(said) + r"(; did you mean .+\?)?", line), line


@pytest.mark.parametrize(
    "changes",
    [
        {"model.self_dropout": 1, "model.cross_dropout": 0, "loss.temperature": 1, "weight_decay": 0},
        {"graph.user_modality_weights": (0, 1), "graph.item_modality_weights": (0.1 + 0.2, 0.7)},
        {"graph.user_modality_weights": (0.5, 0.5000009), "graph.item_modality_weights": ()},
        {"data.modalities": ("image",), "graph.user_modality_weights": (1,), "graph.item_modality_weights": (1.0,)},
        {"evaluation.ks": (50, 1), "evaluation.metric": "hitrate@1"},
        {"schedule.name": "cosine", "schedule.decay_epochs": 10, "schedule.warmup_epochs": 9},
        {"schedule.warmup_epochs": 3},
        {"patience": 0, "model.num_layers": 0, "seed": 2**31 - 1, "graph.cache_dir": ""},
        {"data.synthetic.num_items": 12, "data.synthetic.interactions_per_user": 12},
    ],
)
def test_edges_of_what_is_allowed(changes):
    check_config(demo_with(changes))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("graph.user_modality_weights", {"graph.user_modality_weights": (0.2, 0.3, 0.5)}),
        ("graph.item_modality_weights", {"graph.item_modality_weights": (1.0,)}),
        ("evaluation.metric", {"evaluation.metric": "ndcg@50"}),
        ("data.root", {"data.source": "folder"}),
        ("schedule.decay_epochs", {"schedule.name": "cosine"}),
        ("schedule.warmup_epochs", {"schedule.warmup_epochs": 10, "schedule.decay_epochs": 10}),
        ("data.synthetic.interactions_per_user", {"data.synthetic.interactions_per_user": 601}),
    ],
)
def test_values_that_do_not_go_together(field, changes):
    config = demo_with(changes)
    [line] = refusal(config)
    assert line.startswith(f"{field} = {leaves(config.to_dict())[field]!r}: must be ")


def test_all_problems_are_reported_together():
    config = demo_with({"model.rank": 0, "seed": -1, "evaluation.metric": "map@7", "rnak": 3})
    del config.loss.temperature
    starts = [
        "rnak: unknown",
        "loss.temperature: missing",
        "seed = -1",
        "model.rank = 0",
        "evaluation.metric = 'map@7'",
    ]
    lines = refusal(config)
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


@pytest.mark.parametrize(
    ("name", "advice"),
    [("model.rnak", "did you mean model.rank?"), ("rank", "did you mean model.rank?"), ("zzz", "unknown field")],
)
def test_unknown_fields(name, advice):
    [line] = refusal(demo_with({name: 1}))
    assert line.startswith(f"{name}: unknown field")
    assert line.endswith(advice)


@pytest.mark.parametrize("value", [3, None, "rearm"])
def test_a_value_in_the_place_of_a_section_is_one_problem(value):
    assert refusal(demo_with({"model": value})) == ["model: is a section, not a field; give its fields one by one"]


@pytest.mark.parametrize("value", [None, {}, {"seed": 1}, 3])
def test_only_a_config_dict_is_a_config(value):
    with pytest.raises(ConfigError, match=f"ConfigDict, found {type(value).__name__}"):
        check_config(value)


def test_a_config_given_the_name_of_another_model_has_its_settings():
    config = default.get_config()
    config.data.root, config.model.name, config.batch_size = "data", "lightgcn", 7
    config.model.num_layers = 2  # both have it: what is seen is what holds
    resolved = for_its_model(config.lock())
    assert set(leaves(resolved.to_dict())) == set(default.declared("lightgcn"))
    assert (resolved.batch_size, resolved.model.num_layers, resolved.is_locked) == (7, 2, True)
    assert config.model.rank == 3  # the caller's own is not changed


@pytest.mark.parametrize("name", ["model.rank", "graph.user_knn_k", "loss.temperature"])
def test_a_setting_of_another_model_that_was_changed_is_refused_by_name(name):
    config = demo_with({"model.name": "lightgcn", name: 17})
    for check in (for_its_model, check_config):
        with pytest.raises(ConfigError, match=f"{name}: is a setting of .*rearm.*, and model.name is lightgcn"):
            check(config)


def test_no_setting_of_another_model_refuses_a_model():
    """One modality needs other weights in REARM; LightGCN has none."""
    config = default.get_config("lightgcn")
    config.data.root, config.data.modalities = "data", ("text",)
    check_config(config)
    check_against_data(config, num_users=3, num_items=50)  # REARM's neighbourhoods would be too large


def test_a_config_file_for_another_model_is_left_out_of_and_said(caplog):
    config = shipped("demo")
    config.graph.user_knn_k = 17
    caplog.set_level("INFO", logger="absl")
    found = with_model(config, "lightgcn")
    assert "graph.user_knn_k" in caplog.text
    assert "model.rank" not in caplog.text  # it has REARM's default
    assert found.learning_rate == models.find("lightgcn").settings["learning_rate"].default
    assert found.num_epochs == config.num_epochs
    check_config(found)


def test_json_of_a_run_whose_model_had_settings_of_others_is_read():
    """The first version saved all settings for every model."""
    tree = default.get_config().to_dict()
    tree["model"]["name"] = "lightgcn"
    tree["data"]["root"] = "data"
    tree["model"]["num_layers"] = 2
    config = from_json(json.dumps(tree))
    assert set(leaves(config.to_dict())) == set(default.declared("lightgcn"))
    assert config.model.num_layers == 2


def test_against_data():
    config = demo_with({"graph.user_knn_k": 30, "graph.item_knn_k": 25, "evaluation.ks": (10, 20)})
    check_against_data(config, num_users=30, num_items=25)
    with pytest.raises(ConfigError) as caught:
        check_against_data(config, num_users=29, num_items=19)
    assert str(caught.value).splitlines() == [
        "evaluation.ks = 20: too large, the data has 19 items; set evaluation.ks=(10,) and evaluation.metric=recall@10",
        "graph.user_knn_k = 30: too large, the data has 29 users; set graph.user_knn_k=29 or less",
        "graph.item_knn_k = 25: too large, the data has 19 items; set graph.item_knn_k=19 or less",
    ]


@pytest.mark.parametrize(
    ("ks", "metric", "num_items", "words"),
    [
        ((5, 10, 50), "ndcg@5", 20, "evaluation.ks = 50: too large, the data has 20 items; set evaluation.ks=(5, 10)"),
        (
            (30, 40),
            "ndcg@40",
            7,
            "evaluation.ks = 30, 40: too large, the data has 7 items; set evaluation.ks=(7,) and "
            "evaluation.metric=ndcg@7",
        ),
    ],
)
def test_what_is_said_of_cut_offs_beyond_the_data_can_be_done(ks, metric, num_items, words):
    small = {"graph.user_knn_k": 2, "graph.item_knn_k": 2}
    config = demo_with({"evaluation.ks": ks, "evaluation.metric": metric} | small)
    with pytest.raises(ConfigError) as caught:
        check_against_data(config, num_users=20, num_items=num_items)
    assert str(caught.value) == words
    instead = dict(re.findall(r"(evaluation\.\w+)=(\(.*?\)|\S+)", words))
    ks, metric = ast.literal_eval(instead["evaluation.ks"]), instead.get("evaluation.metric", metric)
    config = demo_with({"evaluation.ks": ks, "evaluation.metric": metric} | small)
    check_config(config)
    check_against_data(config, num_users=20, num_items=num_items)


def typed(value):
    """A value that equals another only if the types are the same, too."""
    return (type(value), [typed(v) for v in value]) if isinstance(value, tuple) else (type(value), value)


WEIGHTS = ("graph.user_modality_weights", "graph.item_modality_weights")


@pytest.mark.parametrize("name", SHIPPED)
def test_json_round_trip_is_exact(name):
    config = shipped(name)
    # Weights that are open are two modalities' equal shares.
    for field in [field for field in WEIGHTS if field in leaves(config.to_dict())]:
        config.update_from_flattened_dict({field: leaves(config.to_dict())[field] or (0.5, 0.5)})
    text = to_json(config)
    back = from_json(text)
    before, after = leaves(config.to_dict()), leaves(back.to_dict())
    assert {k: typed(v) for k, v in after.items()} == {k: typed(v) for k, v in before.items()}
    assert back == config.lock()
    assert text == json.dumps(config.to_dict(), indent=2, sort_keys=True)


@pytest.mark.parametrize("names", [("text",), ("image", "text"), ("image", "text", "audio")])
def test_open_modality_weights_are_saved_as_equal_shares(names):
    config = demo_with({"data.modalities": names, "graph.item_modality_weights": (1.0,) + (0.0,) * (len(names) - 1)})
    saved = json.loads(to_json(config))["graph"]
    assert saved["user_modality_weights"] == pytest.approx([1 / len(names)] * len(names))
    assert saved["item_modality_weights"][0] == 1
    resolved = resolve(config)
    assert resolved.is_locked
    assert tuple(resolved.graph.user_modality_weights) == (1 / len(names),) * len(names)
    assert config.graph.user_modality_weights == ()
    assert differences(resolved, config) == differences(config, resolved) == []


def test_a_run_from_before_weights_could_be_open_is_the_same_run():
    saved = from_json(json.dumps(demo_with(dict.fromkeys(WEIGHTS, (0.5, 0.5))).to_dict()))
    assert differences(saved, shipped("demo")) == []
    assert differences(saved, demo_with({WEIGHTS[0]: (0.4, 0.6)})) == [WEIGHTS[0]]


def test_json_writes_whole_numbers_of_float_fields_as_floats():
    config = demo_with({"loss.temperature": 1, "graph.user_modality_weights": (0, 1)})
    tree = json.loads(to_json(config))
    assert typed(tree["loss"]["temperature"]) == typed(1.0)
    assert typed(tuple(tree["graph"]["user_modality_weights"])) == typed((0.0, 1.0))
    assert from_json(json.dumps(tree).replace("1.0", "1")) == from_json(to_json(config))
    assert differences(from_json(to_json(config)), config) == []


def test_json_is_neither_written_nor_read_for_impossible_settings():
    with pytest.raises(ConfigError, match="seed = -1"):
        to_json(demo_with({"seed": -1}))
    tree = shipped("demo").to_dict()
    for changes, match in (
        ({"learning_rate": NAN}, "learning_rate = nan"),
        ({"model": 3}, "model: is a section"),
        ({"data": []}, "data: is a section"),
        ({"lock": 3}, "lock: unknown field"),
        ({"seed": {"a": 1}}, "seed = {'a': 1}: must be"),
    ):
        with pytest.raises(ConfigError, match=match):
            from_json(json.dumps(tree | changes))


def test_json_of_the_first_version_is_read():
    tree = shipped("demo").to_dict()
    del tree["data"]["name"], tree["data"]["download"], tree["checkpoints"]
    assert from_json(json.dumps(tree)) == resolve(shipped("demo"))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "[" * 100_000, '{"seed": 1' + "0" * 5000 + "}"])
def test_damaged_json_is_refused(text):
    with pytest.raises(ConfigError, match="not a JSON object"):
        from_json(text)


def test_differences_names_every_field_but_those_that_may_differ():
    weights = dict.fromkeys(WEIGHTS, (0.4, 0.6))
    saved = demo_with(weights)
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: 0.75 * v + 0.01, str: lambda v: v + "x"}
    found = []
    for name, value in leaves(saved.to_dict()).items():
        changed = value[::-1] + value if isinstance(value, tuple) else other[type(value)](value)
        found += differences(saved, demo_with(weights | {name: changed}))
    may_differ = {"num_epochs", "patience", "log.progress", "log.tensorboard"}
    may_differ |= {
        "checkpoints.keep",
        "graph.cache_dir",
        "data.root",
        "data.name",
        "data.download",
        "evaluation.block_size",
        "parallel",
    }
    assert sorted(found) == sorted(set(SCHEMA) - may_differ)
    assert differences(saved, saved) == []
    assert differences(shipped("baby"), demo_with({}))[0] == "protocol"


SIMPLE = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(0, 50), st.floats(), st.floats(0, 1), st.text())
VALUES = st.one_of(
    SIMPLE,
    st.lists(SIMPLE, max_size=3),
    st.lists(SIMPLE, max_size=3).map(tuple),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(tuple),
    st.dictionaries(st.sampled_from("ab"), SIMPLE, max_size=2),
    st.sampled_from(["reference", "cosine", "bfloat16", "folder", "lightgcn", "ndcg@10", ("a", "b"), (0.25, 0.75)]),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(SCHEMA)), VALUES)
def test_any_value_of_any_field_passes_or_is_refused_by_name(name, value):
    config = demo_with({name: value})
    problems = []
    try:
        check_config(config)
    except ConfigError as error:
        problems = str(error).split("\n")
    assert all(name in line for line in problems)
    if not problems:
        expected = value or (0.5, 0.5) if name in WEIGHTS else value
        assert leaves(from_json(to_json(config)).to_dict())[name] == expected


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs a command line with a flag `config` and prints the settings: (exit code, stdout, stderr)."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> tuple[int, str, str]:
        values = flags.FlagValues()
        sys.modules.pop("config_config", None)  # the file that was read before, to which the next one would add
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(sys, "argv", ["program.py", *arguments])
        config = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)

        def body() -> int:
            remaining = parse_flags(sys.argv)
            print(to_json(config.value) if config.value else remaining[1:])
            return DONE

        return run_program(body), *capsys.readouterr()

    return run


def test_overrides_reach_the_config(command):
    overrides = {"model.rank": 7, "loss.temperature": 1.0, "data.modalities": ("image", "audio")}
    overrides |= {"graph.user_modality_weights": (0.2, 0.8), "log.progress": False}
    overrides |= {"graph.item_modality_weights": (0.5, 0.5)}  # resolved
    code, stdout, stderr = command(
        "--config=configs/tiktok.py",
        *("--config.model.rank=7", "--config.loss.temperature=1", '--config.data.modalities=("image","audio")'),
        *("--config.graph.user_modality_weights=(0.2,0.8)", "--noconfig.log.progress"),
    )
    assert (code, stderr) == (0, "")
    assert_equal_with_types(stdout, leaves(shipped("tiktok").to_dict()) | overrides)


def assert_equal_with_types(json_text: str, expected: dict) -> None:
    found = leaves(from_json(json_text).to_dict())
    assert {k: typed(v) for k, v in found.items()} == {k: typed(v) for k, v in expected.items()}


def test_a_model_named_by_a_flag_brings_its_settings(command):
    """What the file sets for its own model stays behind; the flags may name what the new model has, nothing else."""
    code, stdout, _ = command(
        DEMO, "--config.batch_size=64", "--config.model.name=lightgcn", "--config.model.num_layers=1"
    )
    assert code == 0
    common = {name: value for name, value in leaves(shipped("demo").to_dict()).items() if name in default.SETTINGS}
    own = {name: setting.default for name, setting in models.find("lightgcn").settings.items()}
    expected = common | own | {"model.name": "lightgcn", "model.num_layers": 1, "batch_size": 64}
    assert_equal_with_types(stdout, expected)


@pytest.mark.parametrize("value", ["image", '("image",)'])
def test_one_modality_needs_no_weights(command, value):
    code, stdout, stderr = command("--config=configs/demo.py", f"--config.data.modalities={value}")
    assert (code, stderr) == (0, "")
    config = from_json(stdout)
    assert config.data.modalities == ("image",)
    assert config.graph.user_modality_weights == config.graph.item_modality_weights == (1.0,)


def test_the_config_is_optional(command):
    assert command("left over") == (0, "['left over']\n", "")


DEMO = "--config=configs/demo.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([DEMO, "--config.model.rnak=7"], ["model.rnak", "unknown field", "did you mean model.rank?"]),
        ([DEMO, "--config.model.rank=abc"], ["model.rank=abc", "must be an integer from 1"]),
        ([DEMO, "--config.model.rank=7.5"], ["model.rank=7.5", "must be an integer from 1"]),
        ([DEMO, "--config.model.rank=0"], ["model.rank = 0", "must be an integer from 1"]),
        ([DEMO, "--config.log.progress=maybe"], ["log.progress=maybe", "must be true or false"]),
        ([DEMO, "--config.model=3"], ["model: is a section"]),
        (
            [DEMO, "--config.model.name=lightgcn", "--config.model.rank=3"],
            ["model.rank: is a setting of rearm, and model.name is lightgcn"],
        ),
        ([DEMO, "--config.model.name=lightgnc"], ["model.name = 'lightgnc'", "lightgcn"]),
        ([DEMO, "--config.evaluation.ks=(5, "], ["evaluation.ks=(5, ", "must be a tuple of different integers"]),
        (
            ["--config=configs/baby.py", "--config.data.modalities=image"],
            ["user_modality_weights = (0.2, 0.8): must be one number for each"],
        ),
        ([DEMO, "--confg.seed=1"], ["confg.seed"]),
        (["--config.model.rank=7"], ["config.model.rank", "give --config=FILE"]),
        (["--config=configs/nothere.py"], ["no such file", "configs/nothere.py"]),
        (["--config=configs/tiktok.py:bpr"], ['no variant "bpr"', '"lightgcn"']),
        ([f"{DEMO}:bpr"], ["configs/demo.py:bpr", "TypeError: get_config()"]),
        (["--config=configs/default.py"], ["data.root = ''"]),
    ],
)
def test_command_line_mistakes_end_in_a_message(command, arguments, words):
    assert_refused(command(*arguments), words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def get_config(:", ["SyntaxError", "mine.py, line 1"]),
        ("import no_such_module", ["No module named 'no_such_module'"]),
        ("x = 1", ["no attribute 'get_config'"]),
        ("def get_config():\n    assert False", ["AssertionError"]),
        ("def get_config():\n    return int('x')", ["ValueError", "'x'"]),
        ("def get_config():\n    return [1]", ["list"]),
    ],
)
def test_mistakes_in_a_config_file_end_in_a_message_that_names_it(command, tmp_path, source, words):
    path = tmp_path / "mine.py"
    path.write_text(source)
    assert_refused(command(f"--config={path}"), [str(path), *words])


def assert_refused(done: tuple[int, str, str], words: list[str]) -> None:
    """A non-zero exit, no traceback, and every one of the words in what is said."""
    code, stdout, stderr = done
    assert (code, stdout) == (1, "")
    assert stderr.startswith("error: ")
    assert "Traceback" not in stderr
    for word in words:
        assert word in stderr
