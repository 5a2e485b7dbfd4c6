"""The documentation says what is there: links, flags, settings, modules and files; and the site builds."""

import ast
import hashlib
import html.parser
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import rearm_jax
from docs.settings_page import CONFIGS, fill
from rearm_jax import default, models

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = (  # whose flags may be named without a command around them
    "rearm_jax.main",
    "rearm_jax.compare",
    "rearm_jax.data.prepare",
    "rearm_jax.data.encode",
    "rearm_jax.data.download",
    "rearm_jax.inference.convert",
    "benchmarks.compile_for",
)
PARSERS = {  # module and function that define the flags of a command, where that is another module
    "rearm_jax.compare": ("rearm_jax.data.options", "compare_parser"),
    "rearm_jax.data.prepare": ("rearm_jax.data.options", "prepare_parser"),
    "rearm_jax.data.encode": ("rearm_jax.data.options", "encode_parser"),
    "rearm_jax.data.download": ("rearm_jax.data.options", "download_parser"),
}
FOREIGN_MODULES = ("build", "mkdocs", "pip", "pytest", "twine", "venv")
FOREIGN_FLAGS = {"--xla_dump_to", "--xla_gpu_deterministic_ops", "--xla_gpu_autotune_level"}
FOLDERS = ("benchmarks", "configs", "docs", "examples", "launch", "rearm_jax", "tests")
CODE_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
INLINE_CODE = re.compile(r"`([^`\n]+)`")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def module_file(module: str) -> Path | None:
    """Source of `python -m module`, None where there is none."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()), None)


def calls_in(node: ast.AST) -> list[ast.Call]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Call)]


def flags_of(module: str) -> set[str]:
    """--names that a module's source gives to absl or argparse."""
    names = {"--help"}
    module, function = PARSERS.get(module, (module, None))
    tree = ast.parse(module_file(module).read_text())
    defining = [node for node in tree.body if function is None or getattr(node, "name", None) == function]
    called = {getattr(call.func, "id", None) for part in defining for call in calls_in(part)}
    defining += [node for node in tree.body if function and getattr(node, "name", None) in called]
    for call in (call for part in defining for call in calls_in(part)):
        if call.args:
            is_definition = isinstance(call.func, ast.Attribute) and call.func.attr.startswith("DEFINE")
            texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if is_definition and texts:  # DEFINE(parser, name, ...) or DEFINE_kind(name, ...)
                names.add(f"--{texts[0]}")
            elif texts and texts[0] is getattr(call.args[0], "value", None):
                names |= set(re.findall("^--[a-z][a-z_-]+$", texts[0]))
    return names


def commands(text: str) -> list[list[str]]:
    """Words of each `python -m MODULE ...` in the code blocks of shells and in inline code, from the module on."""
    code = [body.replace("\\\n", " ") for _, language, body in CODE_BLOCK.findall(text) if language in ("sh", "bash")]
    code += INLINE_CODE.findall(CODE_BLOCK.sub("", text))
    found = []
    for line in "\n".join(code).splitlines():
        if " -m " in f" {line}" and "python" in line:
            words = shlex.split(line, comments=True)
            found.append(words[words.index("-m") + 1 :])
    return found


def unknown_flags(text: str) -> list[str]:
    """Flags in a text that nothing of ours has: of commands by the command, of prose by any of MODULES or launch/."""
    unknown = []
    for module, *words in commands(text):
        if module in FOREIGN_MODULES:
            continue
        given = {re.match(r"--[\w-]+", word)[0] for word in words if re.match(r"--[a-z]", word)}
        allowed = flags_of(module) if module_file(module) else set()
        unknown += [f"{module} {flag}" for flag in sorted(given - allowed - {"--config"})]
    known = set.union(FOREIGN_FLAGS, *map(flags_of, MODULES))
    known |= {flag for file in (ROOT / "launch").iterdir() for flag in re.findall(r"--[a-z][\w-]*", file.read_text())}
    for code in INLINE_CODE.findall(CODE_BLOCK.sub("", text)):
        if " -m " not in code and not code.removeprefix(".venv/bin/").startswith(("pip ", "kubectl ", "git ")):
            unknown += sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) - known)
    return unknown


def unknown_settings(text: str) -> list[str]:
    """Names after `config.` that are neither a field nor a section."""
    names = re.findall(r"(?<![\w/.])config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)", text)
    fields = {field for model in models.names() for field in default.declared(model)}
    fields |= {field for _, _, settings in default.declarations() for field in settings}
    sections = {field[:end] for field in fields for end, letter in enumerate(field) if letter == "."}
    return sorted({name for name in names if name not in fields | sections | {"json", "x"}})


def unknown_places(text: str) -> list[str]:
    """Paths below FOLDERS in inline code that do not exist, modules of commands, and names that code imports."""
    spans = INLINE_CODE.findall(CODE_BLOCK.sub("", text))
    blocks = [body for _, _, body in CODE_BLOCK.findall(text)]
    unknown = []
    for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*", "\n".join(spans + blocks)):
        if not any(ROOT.glob(path.rstrip("./"))) and not re.search("NAME|/[A-Z]+$", path):
            unknown.append(path)
    for module, *_ in commands(text):
        if module not in FOREIGN_MODULES and module_file(module) is None:
            unknown.append(module)
    for _, language, body in CODE_BLOCK.findall(text):
        if language == "python":
            unknown += [name for name in imported(body) if not is_there(*name)]
    return unknown


def imported(source: str) -> list[tuple[str, str]]:
    """(module, name) of each import of rearm_jax, and each attribute of it that is used."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("rearm_jax"):
            found += [(node.module, name.name) for name in node.names]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rearm_jax":
            found.append(("rearm_jax", node.attr))
    return found


def is_there(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


def slug(heading: str) -> str:
    """Anchor of a heading, in MkDocs and (for headings without runs of blanks) on GitHub."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "").strip().lower())
    return re.sub(r"[-\s]+", "-", plain)


def broken_links(page: Path, text: str) -> list[str]:
    prose = CODE_BLOCK.sub("", text)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", file.read_text()), re.M)
            broken += [target] * (anchor not in map(slug, headings))
    return broken


@pages
def test_links(page):
    assert broken_links(page, page.read_text()) == []


@pages
def test_flags(page):
    assert unknown_flags(page.read_text()) == []


@pages
def test_settings_are_named_right(page):
    assert unknown_settings(page.read_text()) == []


@pages
def test_files_and_modules(page):
    assert unknown_places(page.read_text()) == []


def test_mistakes_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n[a](#a-title) [b](#another) [c](gone.md) [d](https://example.org)\n")
    assert broken_links(page, page.read_text()) == ["#another", "gone.md"]
    command = "```sh\npython -m rearm_jax.main --mode evaluate \\\n  --wrkdir runs/demo --config.seed=1\n```\n"
    assert unknown_flags(f"{command}`--min_rating` and `--no-such`") == ["rearm_jax.main --wrkdir", "--no-such"]
    assert unknown_flags("`python -m rearm_jax.data.prepare --min-rating 4`") == ["rearm_jax.data.prepare --min-rating"]
    assert unknown_settings("`config.model.rank`, config.model, `--config.modle.rank=7`; configs/demo.py") == [
        "modle.rank"
    ]
    text = (
        "`rearm_jax/gone.py` `docs/pods.md` `python -m rearm_jax.gone`\n```python\nfrom rearm_jax.api import no\n```\n"
    )
    assert unknown_places(text) == ["rearm_jax/gone.py", "rearm_jax.gone", ("rearm_jax.api", "no")]


def test_every_flag_is_explained():
    """The pages on data and output name all options of their commands."""
    data, output = ((ROOT / "docs" / name).read_text() for name in ("own-data.md", "output.md"))
    flags = flags_of("rearm_jax.data.prepare") | flags_of("rearm_jax.data.encode")
    assert [f for f in flags - {"--help", "--root"} if f"`{f}" not in data] == []
    flags = flags_of("rearm_jax.main") | flags_of("rearm_jax.inference.convert")
    training = {"--help", "--overwrite", "--distributed", "--stopped_code"}  # in the README and docs/pods.md
    training |= {"--version", "--config_list"}  # in docs/index.md and docs/api.md
    assert [flag for flag in flags - training if f"`{flag}" not in output] == []


def test_the_python_example_is_that_of_the_readme():
    """Which tests/test_api.py runs."""
    first = [
        next(body for _, language, body in CODE_BLOCK.findall((ROOT / name).read_text()) if language == "python")
        for name in ("README.md", "docs/index.md")
    ]
    assert first[0] == first[1]


def test_the_notebook_page_runs(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    orders = {"user_id": rng.integers(0, 60, 900), "item_id": rng.integers(0, 60, 900), "timestamp": range(900)}
    pl.DataFrame(orders).write_csv(tmp_path / "orders.csv")
    pl.DataFrame({"item_id": range(60), "title": [f"Title {item}" for item in range(60)]}).write_csv(
        tmp_path / "items.csv"
    )
    np.save(tmp_path / "text.npy", rng.normal(size=(60, 4)))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for _, language, body in CODE_BLOCK.findall((ROOT / "docs" / "notebook.md").read_text()):
        if language == "python":
            exec(compile(body, "notebook.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["3", "17"]
    assert all(line.count("'Title ") == 5 for line in printed)


def test_the_spec_of_the_page_on_comparisons_runs():
    """Each row becomes the settings of a run."""
    [body] = [
        body for _, language, body in CODE_BLOCK.findall((ROOT / "docs/compare.md").read_text()) if language == "python"
    ]
    names: dict = {}
    exec(compile(body, "compare.md", "exec"), names)
    spec = names["get_spec"]()
    configs = {row: spec.config("demo", row, {}, 0, test=False) for row in spec.rows}
    assert [config.model.name for config in configs.values()] == ["ease", "lightgcn", "lightgcn", "lightgcn", "bpr"]
    assert configs["LightGCN, softmax"].loss.ranking == "softmax"
    assert configs["LightGCN + EASE"].residual.model == "ease"


def test_the_page_on_new_models_names_what_the_worked_example_has():
    """tests/test_registered_model.py trains, evaluates, recommends and exports a model from outside."""
    page = (ROOT / "docs" / "contributing.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    first = page.split("In `bpr.py`, from the top:")[1].split("\n2. ")[0]
    leading = re.findall(r"^ +- (.*?)[:,] ", first, re.M)
    named = [name for words in leading for name in re.findall(r"`(\w+)`", words)]
    assert named == ["title", "settings", "relations", "__call__", "losses"]
    model = models.find("bpr")
    assert [name for name in named if not hasattr(model, name)] == []


def test_settings_page_is_current():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == fill(page), "docs/settings.md is old: .venv/bin/python -m docs.settings_page"
    with pytest.raises(ValueError, match="lacks <!-- configs -->"):
        fill(page.replace("<!-- configs -->", ""))


def test_settings_page_is_complete():
    page = (ROOT / "docs" / "settings.md").read_text()
    common, of_models = page.split("## Of every run")[1].split("## Of each model")
    of_models, _ = of_models.split("## The configurations")
    sections = dict(zip(models.names(), re.split("^### .*$", of_models, flags=re.M)[1:], strict=True))
    assert all(f'`config.model.name = "{name}"`' in of_models for name in sections)
    places = [(common, default.SETTINGS, default.JOINT_RULES)]
    places += [(text, models.find(name).settings, models.find(name).joint_rules) for name, text in sections.items()]
    for text, settings, joint_rules in places:
        assert len(re.findall(r"^\| `config\.", text, re.M)) == len(settings)
        for name, setting in settings.items():
            [row] = re.findall(rf"^\| `config\.{re.escape(name)}` \|.*$", text, re.M)
            assert setting.rule.allowed.replace("|", "\\|") in row
            assert setting.meaning[1:] in row
            assert ("May change" in row) == (name in default.MAY_DIFFER)
            assert (f"at most the number of {setting.at_most}" in row) == bool(setting.at_most)
        for rule in joint_rules:
            pattern = rf"^- `config\.{re.escape(rule.name)}` .*`config\.{re.escape(rule.other)}`"
            assert re.search(pattern, text, re.M)
    row = "| `config.model.rank` | `3` | an integer from 1 to 2147483647 | Of the meta-network's transformations. |"
    assert row in sections["rearm"]
    assert '| `config.data.modalities` | `("image", "text")` |' in common
    assert "| `config.learning_rate` | `5e-05` |" in sections["rearm"]


def test_settings_page_shows_what_the_configs_change():
    page = (ROOT / "docs" / "settings.md").read_text()
    lines = page.split("## The configurations")[1].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert header == ["setting", *(f"`{name}`" for name in CONFIGS)]
    cells = {row[0].strip("`"): dict(zip(CONFIGS, row[1:], strict=True)) for row in rows}
    assert (cells["model.name"]["tiktok"], cells["model.name"]["tiktok:lightgcn"]) == ("", '`"lightgcn"`')
    assert (cells["loss.temperature"]["tiktok"], cells["loss.temperature"]["tiktok:lightgcn"]) == ("`0.2`", "-")
    assert cells["num_epochs"]["demo"] == "`30`"
    assert "seed" not in cells


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("configs/*.py") if path.stem != "__init__"))
def test_configs_say_command_time_and_score(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
    assert re.search(rf"^ +python -m rearm_jax\.main --config=configs/{name}\.py .*--workdir=runs/", text, re.M)
    if name in ("default", "rearm_plus"):  # any data
        assert "Time and score: those of the data" in text
        return
    unmeasured = "not measured: features not at hand"
    for word, unit in (("Time", r"\d s\b"), ("Score", r"test Recall@20 0\.\d+")):
        [line] = re.findall(rf"^{word}: (.*)$", text, re.M)
        assert line.startswith(unmeasured) or re.search(unit, line), line


@pytest.mark.parametrize("page", [ROOT / "README.md", *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_pip_is_that_of_the_environment(page):
    assert re.findall(r"(?<![\w/.])pip (?:install|download).*", page.read_text()) == []


def test_project_files_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rearm_jax.__version__
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert f"\n## [{rearm_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert "2508.13745" in citation["preferred-citation"]["url"]
    licence = (ROOT / "LICENSE").read_bytes()  # as https://www.apache.org/licenses/LICENSE-2.0.txt has it
    assert hashlib.sha256(licence).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


class Resources(html.parser.HTMLParser):
    """Collects what a page loads by itself; links that people follow are not among it."""

    def __init__(self):
        super().__init__()
        self.urls, self.styles = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.styles.append(given.get("style") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.urls.append(given.get("href") or "")
        elif tag not in ("a", "link"):
            self.urls += [given.get(name) or "" for name in ("src", "srcset", "data", "poster")]

    def handle_data(self, data):
        if self.lasttag == "style":
            self.styles.append(data)


def is_elsewhere(url: str) -> bool:
    return re.match(r"\s*(https?:)?//", url) is not None


def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (requirements-docs.txt); `make docs` builds the site")
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING -" not in done.stderr

    built = {page.parent.name for page in site.rglob("index.html")}
    assert {page.stem for page in ROOT.glob("docs/*.md")} - {"index"} <= built
    for page in site.rglob("*.html"):
        found = Resources()
        found.feed(page.read_text())
        assert found.urls, page
        assert [url for url in found.urls if is_elsewhere(url)] == [], page
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", "".join(found.styles)), page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style
    page = (site / "how-it-works" / "index.html").read_text()
    assert re.search(r"<svg[^>]*role=\"img\"[^>]*aria-labelledby=\"arch-title arch-desc\"", page)
    assert list(site.rglob("*.py")) == []
