"""Configs and specs by name, and the version."""

import re
import tomllib
from pathlib import Path

import pytest

import rearm_jax
from docs.absolute_links import absolute, with_addresses
from rearm_jax.compare.spec import load_spec
from rearm_jax.errors import ConfigError
from rearm_jax.shipped import find_file, list_shipped

ROOT = Path(__file__).parent.parent
CONFIGS = {path.stem for path in ROOT.glob("configs/*.py")} - {"__init__"}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_config_has_a_name(name):
    assert Path(find_file("config", name)).samefile(ROOT / "configs" / f"{name}.py")


def test_a_path_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for file in ("baby", "demo.py", "a/b.py"):
        (tmp_path / file).write_text("")
    for given in ("baby", "demo.py", "./demo.py", "a/b.py:lightgcn", f"{tmp_path}/demo.py"):
        assert find_file("config", given) == given
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_file("config", "~/a/b.py") == f"{tmp_path}/a/b.py"


@pytest.mark.parametrize(
    ("kind", "given", "hint"),
    [
        ("config", "demo.py", "; did you mean --config=demo, which comes with the package?"),
        ("config", "configs/tiktok.py:bm3", "; did you mean --config=tiktok:bm3, which comes with the package?"),
        ("config", "mine/another.py", ""),
        ("config", "./demo/", "; did you mean --config=demo, which comes with the package?"),
        ("spec", "compare/demo.py", "; did you mean --spec=demo, which comes with the package?"),
    ],
)
def test_a_file_that_is_not_there(tmp_path, monkeypatch, kind, given, hint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_file(kind, given)
    assert str(caught.value) == f"--{kind}={given}: there is no such file{hint}"


def test_what_follows_a_colon_is_for_the_config():
    assert find_file("config", "tiktok:lightgcn") == find_file("config", "tiktok") + ":lightgcn"


@pytest.mark.parametrize(("kind", "given", "near"), [("config", "tiktak", "tiktok"), ("spec", "demmo", "demo")])
def test_a_name_that_is_none(kind, given, near):
    with pytest.raises(ConfigError, match=rf"--{kind}={given}: .*did you mean {near}\?"):
        find_file(kind, given)


def test_a_spec_by_name():
    assert "EASE" in load_spec("demo").rows


def test_the_list_has_a_line_for_each():
    first, _, specs = list_shipped().partition("--spec")
    assert set(re.findall(r"^  (\w+) +\w", first, re.M)) == CONFIGS
    assert "demo" in specs


def test_the_version_is_written_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rearm_jax.version.VERSION"}


def test_links_of_the_readme_for_an_index():
    text = absolute((ROOT / "README.md").read_text(), "https://a.example/b/", "v1")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert all(target.startswith("https://") for target in targets)
    kinds = {}
    for target in targets:
        if ours := re.fullmatch(r"https://a\.example/b/(blob|raw)/v1/([^#]*)(#.*)?", target):
            assert (ROOT / ours[2]).is_file(), target
            kinds[ours[2]] = ours[1]
    assert kinds["docs/report.png"] == "raw"
    assert kinds["docs/own-data.md"] == "blob"
    assert len(kinds) > 15


def test_an_index_links_to_the_repository():
    before = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(with_addresses(before, "https://a.example/b/", "v1"))["project"]
    addresses = project.pop("urls")
    assert project == tomllib.loads(before)["project"]
    assert addresses["Repository"] == "https://a.example/b"
    files = [address.removeprefix("https://a.example/b/blob/v1/") for address in addresses.values()][1:]
    assert all((ROOT / file).is_file() for file in files)
    assert len(files) == 2


def test_what_the_package_offers_is_public_by_its_page():
    page = (ROOT / "docs" / "api.md").read_text()
    section = page.partition("## The public interface\n")[2].partition("\n## ")[0]
    named = {line.rsplit(".", 1)[1] for line in section.splitlines() if line.startswith("::: ")}
    assert set(rearm_jax.__all__) <= named
