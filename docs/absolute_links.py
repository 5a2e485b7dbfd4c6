"""Makes the links of README.md absolute, as an index of packages needs them: it shows the README and nothing else.

pyproject.toml gets the address of the repository, too, which the index links to.

python -m docs.absolute_links https://HOST/OWNER/rearm_jax v0.1.0     # in the clone that is built, before the build
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, PROJECT = ROOT / "README.md", ROOT / "pyproject.toml"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!https?:|#)([^)\s]+)\)")


def absolute(markdown: str, home: str, tag: str) -> str:
    """Markdown with every link to a file of the repository leading to its page at `home`, a picture to the file."""

    def link(found: re.Match) -> str:
        picture, text, target = found.groups()
        return f"{picture}[{text}]({home.rstrip('/')}/{'raw' if picture else 'blob'}/{tag}/{target})"

    return _LINK.sub(link, markdown)


def with_addresses(project: str, home: str, tag: str) -> str:
    """The text of pyproject.toml with the addresses of repository, documentation and changelog."""
    home = home.rstrip("/")
    pages = {"Repository": home, "Documentation": f"{home}/blob/{tag}/docs/index.md"}
    pages["Changelog"] = f"{home}/blob/{tag}/CHANGELOG.md"
    lines = "".join(f'{name} = "{address}"\n' for name, address in pages.items())
    return f"{project.rstrip()}\n\n[project.urls]\n{lines}"


if __name__ == "__main__":
    home, tag = sys.argv[1:]
    PROJECT.write_text(with_addresses(PROJECT.read_text(encoding="utf-8"), home, tag), encoding="utf-8")
    README.write_text(absolute(README.read_text(encoding="utf-8"), home, tag), encoding="utf-8")
