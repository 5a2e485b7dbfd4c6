"""Makes the links of README.md absolute, as an index of packages needs them: it shows the README and nothing else.

python -m docs.absolute_links https://HOST/OWNER/rearm_jax v0.1.0     # in the clone that is built, before the build
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!https?:|#)([^)\s]+)\)")


def absolute(markdown: str, home: str, tag: str) -> str:
    """Markdown with every link to a file of the repository leading to its page at `home`, a picture to the file."""

    def link(found: re.Match) -> str:
        picture, text, target = found.groups()
        return f"{picture}[{text}]({home.rstrip('/')}/{'raw' if picture else 'blob'}/{tag}/{target})"

    return _LINK.sub(link, markdown)


if __name__ == "__main__":
    home, tag = sys.argv[1:]
    README.write_text(absolute(README.read_text(encoding="utf-8"), home, tag), encoding="utf-8")
