"""Pages as a browser shows them: what is cut off, too faint, too small or on top of something else."""

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 390)

# Loads the report in frames of several widths, and writes down what a reader would see. rgb() is how a browser writes
# every computed colour; contrast is that of WCAG 2.
WRAPPER = """<!doctype html><title>wrapper</title><pre id="found"></pre>
<script>
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const ground = element => {
  for (; element; element = element.parentElement) {
    const colour = numbers(getComputedStyle(element).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
};
function look(frame, width) {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach(details => details.open = true);
  const panels = [...page.querySelectorAll("figure .panel")].map(panel => {
    const svg = panel.querySelector("svg"), box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")];
    return {
      figure: panel.closest("figure").id, label: panel.getAttribute("aria-label"), width: box.width, height: box.height,
      shapes: svg.querySelectorAll("path, use").length,
      texts: texts.length,
      cut: texts.filter(text => {
        const inner = text.getBoundingClientRect();
        return inner.left < box.left - 1 || inner.right > box.right + 1 || inner.top < box.top - 1
          || inner.bottom > box.bottom + 1;
      }).map(text => text.textContent),
      overlapping: texts.flatMap((text, i) => texts.slice(i + 1).filter(other => {
        const a = text.getBoundingClientRect(), b = other.getBoundingClientRect();
        return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
      }).map(other => [text.textContent, other.textContent])),
      smallest: Math.min(...texts.map(text => text.getBoundingClientRect()).map(b => Math.min(b.height, b.width * 9))),
      colours: [...svg.querySelectorAll("path, use")].filter(shape => !shape.closest("defs"))
        .flatMap(shape => [getComputedStyle(shape).stroke, getComputedStyle(shape).fill])
        .filter(colour => colour.startsWith("rgb")).map(colour => contrast(numbers(colour), ground(panel))),
    };
  });
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT), faint = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement, style = getComputedStyle(parent);
    if (!node.data.trim() || parent.closest("defs")) continue;
    const colour = numbers(parent.tagName === "text" ? style.fill : style.color);
    const value = contrast(colour, ground(parent));
    if (!(value >= 4.5)) faint.push([node.data, value]);
  }
  const tables = [...page.querySelectorAll(".table")].map(box => ({
    caption: box.querySelector("caption").textContent, hidden: box.scrollWidth - box.clientWidth,
    attachments: getComputedStyle(box).backgroundAttachment,
  }));
  return {width, panels, faint, tables, overflow: page.documentElement.scrollWidth - frame.clientWidth,
          ground: ground(page.body), typefaces: [...new Set([...page.querySelectorAll("body *")].filter(
            element => element.textContent.trim() && !element.closest("defs")
          ).map(element => getComputedStyle(element).fontFamily))]};
}
const found = [];
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => {
    found.push(look(frame, width));
    if (found.length < WIDTHS.length) return;
    document.getElementById("found").textContent = JSON.stringify(found);
    console.info("looked");
  };
  frame.src = "PAGE";
  document.documentElement.append(frame);
}
</script>
"""


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def look_at(path: Path, tmp_path: Path, scheme: str, figures: dict[str, int]) -> list[dict]:
    """Opens a page in a browser at all WIDTHS, asserts that it can be read, and gives what was seen at each of them.

    Args:
      path: of the page.
      tmp_path: an empty folder.
      scheme: "light" or "dark".
      figures: name of each figure that must be there, in order -> number of its panels.
    """
    assert CHROMIUM is not None
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAPPER.replace("WIDTHS", json.dumps(WIDTHS)).replace("PAGE", path.as_uri()))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--allow-file-access-from-files", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run([*command, wrapper.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console  # the wrapper's own word, which shows that the console is heard
    assert "looked" in console[0]

    views = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)[1].replace("&gt;", ">"))
    assert sorted(view["width"] for view in views) == sorted(WIDTHS)
    for view in views:
        assert (sum(view["ground"][:3]) < 128) == (scheme == "dark")
        assert view["overflow"] <= 0
        assert view["faint"] == []
        assert len(view["typefaces"]) == 1, view["typefaces"]
        # Shadows stay at the edges of the box; covers that go with the table hide them where there is no more of it.
        assert {table["attachments"] for table in view["tables"]} == {"local, local, scroll, scroll, scroll"}
        assert [panel["figure"] for panel in view["panels"]] == [
            f"figure-{name}" for name, count in figures.items() for _ in range(count)
        ]
        for panel in view["panels"]:
            name = f"{panel['label']} at {view['width']} px, {scheme}"
            assert 250 < panel["width"] < 700, name
            assert panel["height"] > 180, name
            assert panel["shapes"] > 10, name
            assert panel["texts"] > 4, name
            assert panel["cut"] == [], name
            assert panel["overlapping"] == [], name
            assert panel["smallest"] > 9, name
            assert max(panel["colours"]) > 3, name
            assert not [value for value in panel["colours"] if 1.8 < value < 3], name  # grid lines are fainter
    return views
