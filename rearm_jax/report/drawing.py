"""One drawing, two outputs: SVG in the colours and the typeface of the page, and PNG for slides and papers."""

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# After Okabe & Ito, whose colours colour-blind people can tell apart. A drawing uses no others; templates/style.css has
# the same names as CSS variables, with values for a light and for a dark page.
INK, MUTED, LINE, PAPER = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#b8578f"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
}
SERIES = (BLUE, ORANGE, GREEN, PURPLE, MUTED)
MARKERS = ("o", "^", "s", "D", "v")
DASHES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 24,  # room for the key
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],  # of the PNG; wider than most: what fits here fits the page
    "font.size": 9.5,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text, in the typeface of the page
    "svg.hashsalt": "rearm",  # the same drawing gives the same file
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
}
_DPI = 200


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of one or several panels.

    Attributes:
      name: of the PNG file, without the ending.
      panels: each draws on matplotlib Axes.
      alts: what each panel shows, in words.
      columns: panels in a row where there is room.
      size: width and height of a panel in inches.
    """

    name: str
    panels: tuple[Callable, ...]
    alts: tuple[str, ...]
    columns: int = 2
    size: tuple[float, float] = (4.3, 3.2)

    def png(self) -> bytes:
        """All panels in one picture, on white."""
        rows = -(-len(self.panels) // self.columns)
        columns = min(len(self.panels), self.columns)
        with _styled() as figure:
            figure.set_size_inches(self.size[0] * columns, self.size[1] * rows)
            figure.set_facecolor(PAPER)
            for place, panel in enumerate(self.panels, start=1):
                panel(figure.add_subplot(rows, columns, place))
            figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=_DPI)
        return content.getvalue()

    def svgs(self) -> list[str]:
        """One <svg> element a panel, for use inside an HTML page that defines VARIABLES."""
        return [self._svg(number) for number in range(len(self.panels))]

    def _svg(self, number: int) -> str:
        with _styled() as figure:
            figure.set_size_inches(*self.size)
            figure.set_facecolor("none")
            self.panels[number](figure.add_subplot())
            content = io.StringIO()
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        return _for_page(content.getvalue(), f"{self.name}-{number}")


def colour_and(shapes: Sequence, number: int) -> tuple[str, Any]:
    """How to draw one of several: the sixth has the colour of the first again, and another shape."""
    return SERIES[number % len(SERIES)], shapes[(number + number // len(SERIES)) % len(shapes)]


def plain_ticks(axis: Any, text: Callable[[float], str]) -> None:
    """Labels of a logarithmic axis without powers; also at 2 and 5 where it spans little, everywhere if very little."""

    def minor(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        if high / low < 2.5 and axis.axis_name == "y":
            return text(value)
        leading = round(value / 10 ** math.floor(math.log10(value)))
        return text(value) if high / low < 30 and leading in (2, 5) else ""

    axis.set_major_formatter(lambda value, _: text(value))
    axis.set_minor_formatter(minor)


def legend_above(axes: Any, **settings: Any) -> None:
    """A key in one row, between title and axes."""
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=5,
        borderpad=0,
        borderaxespad=0.4,
        columnspacing=0.9,
        handlelength=1.4,
        handletextpad=0.4,
        **settings,
    )
    legend.set_in_layout(False)  # a long key may reach over the edge of the axes, and does not make them narrow


def legend_below(axes: Any, ncols: int) -> None:
    """A key of several rows, under the label of the horizontal axis; the axes make room for it."""
    from matplotlib.transforms import ScaledTranslation

    below_label = ScaledTranslation(0, -0.52, axes.figure.dpi_scale_trans)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + below_label,
        ncols=ncols,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=2.4,
        handletextpad=0.5,
    )


@contextlib.contextmanager
def _styled() -> Iterator:
    """An empty figure under this file's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}):
        yield Figure()


def _for_page(svg: str, name: str) -> str:
    """What matplotlib writes, as an element of a page: the page's variables for colours, ids that are unique there."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"^<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing in the picture refers to groups
    svg = svg.replace(' id="', f' id="{name}-').replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # Two decimals of a point are enough for the eye, and make the page half as long.
    return re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
