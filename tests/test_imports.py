"""The floors of the house: a file imports only from lower floors or its own folder; some libraries have one door.

A folder is a room with all that is in it: models/rearm/ belongs to models. Optional packages are imported inside
functions, or by name through inference/extras.py."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rearm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "files": 0,
    "settings": 0,
    "version": 0,
    "parallel": 0,
    "program": 1,
    "data": 2,
    "losses": 2,
    "graphs": 3,
    "evaluation": 3,
    "recommender": 4,
    "models": 5,
    "default": 6,
    "config": 7,
    "shipped": 1,
    "command_line": 8,
    "experiment": 8,
    "training": 9,
    "inference": 10,
    "report": 11,
    "api": 12,
    "compare": 12,
    "main": 13,
}


def room(path: Path) -> str:
    """rearm_jax/training/loop.py -> training, rearm_jax/losses.py -> losses."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imported_modules(source: str) -> frozenset[str]:
    """Dotted names of all that is imported anywhere in a file; `from a import b` counts as a and a.b."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            modules |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return frozenset(modules)


def files_that_import(library: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(f"{name}.".startswith(f"{library}.") for name in imported_modules(path.read_text()))
    }


def floor_violations(path: Path, source: str) -> list[str]:
    """Modules of rearm_jax that the file at `path` may not import."""
    floor, bad = FLOORS[room(path)], []
    for name in sorted(imported_modules(source)):
        package, *parts = name.split(".")
        if package == "rearm_jax" and parts and parts[0] != room(path) and FLOORS[parts[0]] >= floor:
            bad.append(name)
    return bad


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=lambda p: str(p.name))
def test_floors(path):
    assert room(path) in FLOORS, f"{path} has no floor: give it one here and in the design"
    assert floor_violations(path, path.read_text()) == []


def test_floors_see_a_violation():
    loop, losses = PACKAGE / "training" / "loop.py", PACKAGE / "losses.py"
    assert floor_violations(loop, "from rearm_jax.training.step import x\nimport rearm_jax.models.rearm.model") == []
    assert floor_violations(loop, "def f():\n    from rearm_jax.main import x") == [
        "rearm_jax.main",
        "rearm_jax.main.x",
    ]
    assert floor_violations(loop, "from rearm_jax.inference.recommend import x")
    assert floor_violations(losses, "import rearm_jax.data.dataset")  # the same floor, another room
    assert floor_violations(losses, "from rearm_jax import training")


def test_every_floor_is_used():
    assert {room(p) for p in FILES if p.name != "__init__.py"} | {"inference"} == set(FLOORS)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """What is left when files that import none of the others are taken away again and again."""
    while leaves := {file for file, others in arrows.items() if not others & arrows.keys() - {file}}:
        arrows = {file: others for file, others in arrows.items() if file not in leaves}
    return sorted(arrows)


def test_no_files_import_each_other_in_a_circle():
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES if p.name != "__init__.py"}
    assert circle({name: set(imported_modules(path.read_text())) for name, path in modules.items()}) == []


def test_one_door_for_each_library():
    assert files_that_import("orbax") == {"training/checkpoint.py"}
    linen = files_that_import("flax.linen") | files_that_import("flax.nnx")
    assert {Path(name).parts[0] for name in linen} == {"models", "recommender"}
    assert files_that_import("tensorboardX") == {"training/writer.py"}
    assert files_that_import("huggingface_hub") == {"data/download.py", "data/encode/encoder.py"}  # data sets; encoders
    assert files_that_import("ml_collections.config_flags") == {"main.py", "inference/convert.py"}
    polars = {name for name in files_that_import("polars") if not name.startswith("data/")}
    # Tables of other people, in data/ and of lists of other toolkits; our own tables.
    assert polars == {"evaluation/user_metrics.py", "compare/results.py", "compare/external.py"}
    for library in ("PIL", "sentence_transformers", "transformers"):
        assert {Path(name).parts[0] for name in files_that_import(library)} == {"data"}, library
    for library in ("jinja2", "matplotlib", "sklearn"):
        assert {str(Path(name).parent) for name in files_that_import(library)} == {"report"}, library
    assert files_that_import("faiss") == {"graphs/knn.py"}


def test_three_files_define_flags():
    defining = set()
    for path in FILES:
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        if "add_argument" in names or any(name.startswith("DEFINE") for name in names):
            defining.add(str(path.relative_to(PACKAGE)))
    assert defining - {"program.py"} == {"data/options.py", "inference/convert.py", "main.py"}  # it shows those of absl


def test_extras_of_outputs_are_imported_by_name():
    """Torch, above all, is never imported where somebody did not ask for a .pt file: import_extra alone reaches it."""
    doors = {
        "faiss": {"inference/export.py"},
        "flatbuffers": {"inference/export.py"},
        "jinja2": {"compare/report.py", "report/visualize.py"},
        "matplotlib": {"compare/report.py", "report/visualize.py"},
        "pyarrow": {"inference/export.py", "inference/recommend_files.py"},
        "safetensors": {"inference/convert.py"},
        "sklearn": {"report/visualize.py"},
        "torch": {"inference/convert.py"},
    }
    named: dict[str, set[str]] = {}
    for path in FILES:
        for module in extras_named(path.read_text()):
            named.setdefault(module.split(".")[0], set()).add(str(path.relative_to(PACKAGE)))
    assert named == doors
    for library in ("flatbuffers", "pyarrow", "safetensors", "torch"):
        assert files_that_import(library) == set(), library


def extras_named(source: str) -> set[str]:
    """Modules in calls such as import_extra("torch", ...), also where a loop goes over their names."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        calls = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "import_extra"]
        loop = node.generators[0] if isinstance(node, ast.GeneratorExp) else node
        if isinstance(loop, ast.comprehension | ast.For) and calls:
            names |= {name.value for name in loop.iter.elts}
        elif isinstance(node, ast.Call) and node in calls and isinstance(node.args[0], ast.Constant):
            names.add(node.args[0].value)
    return names


def test_extras_named_sees_every_way():
    assert extras_named('import_extra("a.b", "x", "y")') == {"a.b"}
    assert extras_named('f, g = (import_extra(name, "x", "y") for name in ("a", "a.b"))') == {"a", "a.b"}
    assert extras_named('for name in ("a", "a.b"):\n    import_extra(name, "x", "y")') == {"a", "a.b"}


def test_one_door_for_pmap_and_one_for_collectives():
    doors = {
        "parallel/mesh.py": {"pmap", "shard_map", "axis_index"},
        "parallel/rows.py": {"psum", "pmean", "all_gather", "psum_scatter", "ppermute", "all_to_all"},
    }
    names = set().union(*doors.values())
    used: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
            if name in names:
                used.setdefault(str(path.relative_to(PACKAGE)), set()).add(name)
    assert used.keys() == doors.keys()
    assert all(used[path] <= doors[path] for path in doors)


def test_nobody_names_a_model():
    """Only the models' own files, and what converts the original's weights, know one by name."""
    named = {
        path
        for path in FILES
        if "models" not in path.parts
        and any(name.startswith("rearm_jax.models.") for name in imported_modules(path.read_text()))
    }
    assert {str(path.relative_to(PACKAGE)) for path in named} == {"__init__.py", "inference/convert.py"}


def test_the_package_does_not_import_configs_or_tests():
    assert files_that_import("configs") | files_that_import("tests") == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_what_it_reads(path):
    refused = {"pickle", "cloudpickle", "dill", "joblib", "subprocess", "shelve"}
    if path == PACKAGE / "compare" / "processes.py":  # starts the comparison's own workers, by lists of words
        refused -= {"subprocess"}
    assert not imported_modules(path.read_text()) & refused
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            function = node.func
            assert not (isinstance(function, ast.Name) and function.id in ("eval", "exec")), f"line {node.lineno}"
            assert not (isinstance(function, ast.Attribute) and function.attr in ("system", "popen")), node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False, f"line {node.lineno}"
