"""The picture of docs/speed.md: python -m benchmarks.plot benchmarks/results/NAME.json docs/speed.svg"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_ROWS = ("epoch", "step", "attention", "meta-network", "losses", "propagation user-item", "wide features", "optimiser")
_COLOURS = {"torch": "#999999", "jax": "#0072b2"}  # told apart without colour vision
_NAMES = {"torch": "PyTorch, eager", "jax": "rearm_jax"}


def draw(results: dict, path: Path) -> None:
    """Seconds of each part on both sides, one panel a preset, logarithmic; the ratio stands beside each pair.

    Args:
      results: contents of a file that benchmarks/run.py wrote, PyTorch included.
      path: of the picture; its ending chooses the format.
    """
    presets = results["presets"]
    figure, panels = plt.subplots(1, len(presets), figsize=(5 * len(presets), 4), sharey=True, squeeze=False)
    for panel, (preset, result) in zip(panels[0], presets.items(), strict=True):
        for row, name in enumerate(_ROWS):
            part = result["parts"][name]
            for offset, side in ((-0.2, "torch"), (0.2, "jax")):
                label = _NAMES[side] if row == 0 else None
                panel.barh(row + offset, part[side]["median"], 0.4, color=_COLOURS[side], label=label)
            slower = max(part[side]["median"] for side in _COLOURS)
            ratio = part["torch"]["median"] / part["jax"]["median"]
            panel.annotate(f"{ratio:.1f}x", (slower, row), (4, 0), textcoords="offset points", va="center")
        panel.set(title=preset, xscale="log", xlabel="seconds", yticks=range(len(_ROWS)), yticklabels=_ROWS)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right", frameon=False)
    machine = results["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['cores']} cores, float32")
    figure.tight_layout()
    # Without the date, the same results give the same file.
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    draw(json.loads(source.read_text()), target)
