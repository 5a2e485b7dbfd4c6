"""The Markdown table of a comparison's results."""


def markdown(results: dict) -> str:
    """A table for each preset of what benchmarks/run.py measured; ends each row in the ratio to the eager yardstick."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# rearm_jax beside plain PyTorch",
        "",
        f"`{results['command']}`",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; "
        f"Python {machine['python']}, {versions}. Seconds are medians of rounds in which the sides take turns, with "
        "the smallest and largest in brackets. The floor is what the part's bytes and operations need at the measured "
        "copy bandwidth and matmul rate; its share is floor / rearm_jax.",
    ]
    for preset, result in results["presets"].items():
        lines += ["", f"## {preset}", "", *_preset(result)]
    return "\n".join(lines) + "\n"


def _preset(result: dict) -> list[str]:
    sizes, floors = result["sizes"], result["floors"]
    copy, matmul = floors["copy_bytes_per_s"] / 1e9, floors["matmul_flops_per_s"] / 1e9
    lines = [
        f"{sizes['users']} users, {sizes['items']} items, {sizes['interactions']} train interactions; "
        f"{result['data']}. Copy {copy:.1f} GB/s, matmul {matmul:.0f} GFLOP/s.",
        "",
        "| | bytes | operations | floor | rearm_jax | its share | PyTorch eager | torch.compile | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, part in result["parts"].items():
        floor = part.get("floor")
        cells = [
            name,
            f"{part['bytes'] / 1e6:.0f} MB" if floor else "",
            f"{part['flops'] / 1e9:.2f} G" if floor and part["flops"] else "",
            _seconds(floor) if floor else "",
            _spread(part.get("jax")),
            f"{floor / part['jax']['median']:.0%}" if floor else "",
            _spread(part.get("torch")),
            _spread(part.get("torch-compile")),
            _ratio(part["torch"]["median"], part["jax"]["median"]) if "torch" in part else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")

    if "compilation" in result:  # all was measured
        lines += ["", *_beside_the_parts(result)]
    return lines


def _beside_the_parts(result: dict) -> list[str]:
    floors, graphs = result["floors"], result["graphs"]
    memory, ranking, compilation = (result[name] for name in ("peak memory", "ranking memory", "compilation"))
    rate = graphs["knn flops"] / graphs["knn"]
    sharing, all_pairs = (graphs[f"co-occurrence by loops over {which} pairs"] for which in ("sharing", "all"))
    ours = graphs["co-occurrence"]
    return [
        "| | rearm_jax | PyTorch eager | ratio |",
        "|---|---|---|---|",
        _row("co-occurrence graphs, against loops over all pairs (1 in 20, scaled)", _seconds, ours, all_pairs),
        _row("co-occurrence graphs, against loops over the pairs that share", _seconds, ours, sharing),
        _row("peak memory of a run", _gigabytes, memory["jax"], memory.get("torch")),
        _row("ranking all users, memory beyond the vectors", _gigabytes, ranking["jax"], ranking.get("torch")),
        f"| kNN graph, items by the first modality | {_seconds(graphs['knn'])} | | "
        f"{rate / floors['matmul_flops_per_s']:.0%} of the matmul rate |",
        f"| all graphs, cold | {_seconds(graphs['graphs cold'])} | | |",
        f"| all graphs, cached | {_seconds(graphs['graphs cached'])} | | |",
        f"| compilation of the train step | {_seconds(compilation['compiled'])} | | |",
        f"| compilation, from the persistent cache | {_seconds(compilation['cached'])} | | |",
    ]


def _row(name: str, show, jax: float, torch: float | None) -> str:
    return f"| {name} | {show(jax)} | {show(torch) if torch else ''} | {_ratio(torch, jax) if torch else ''} |"


def _spread(summary: dict | None) -> str:
    if summary is None:
        return ""
    if summary["min"] == summary["max"]:
        return _seconds(summary["median"])
    return f"{_seconds(summary['median'])} ({_seconds(summary['min'])} - {_seconds(summary['max'])})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _ratio(other: float, ours: float) -> str:
    return f"{other / ours:.1f}x" if ours > 0 else ""
