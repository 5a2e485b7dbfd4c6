"""A made-up comparison, small and plausible: two data sets, eight rows in every state that a row can be in."""

import json
import math

import numpy as np

from rearm_jax.compare.results import write_results

METRICS = ("ndcg@20", "recall@20", "ndcg@10", "recall@10")
SEEDS, TRIES, NUM_USERS, NUM_SCORED = 3, 8, 240, 200
ROWS = {  # mean of NDCG@20, model, state
    "MostPopular": (0.021, "popular", "closed"),
    "EASE": (0.060, "ease", "closed"),
    "LightGCN": (0.050, "lightgcn", "done"),
    "LightGCN twin": (0.050, "lightgcn", "done"),
    "REARM": (0.075, "rearm", "one failed"),
    "FREEDOM/no graph": (0.052, "freedom", "done"),
    "other_toolkit": (0.045, "external", "external"),
    "REARM, 3 layers": (0.07, "rearm", "searching"),
}


def about(data=("baby", "office"), **changes):
    sizes = {"users": NUM_USERS, "items": 90, "train": 3000, "valid": 300, "test": 320}
    facts = {name: sizes | {"content_hash": f"c-{name}", "split_hash": f"s-{name}"} for name in data}
    command = "python -m rearm_jax.compare --spec configs/compare/made_up.py --workdir runs/made_up"
    base = {
        "metric": "ndcg@20",
        "split": "test",
        "reference": "LightGCN",
        "rows": list(ROWS),
        "data": facts,
        "tries": TRIES,
    }
    base |= {"seeds": SEEDS, "command": command, "version": "0.1.0", "numerics": 1, "select_by": "recall@20"}
    return base | changes


def write(folder, **changes):
    """Writes the comparison into a folder; gives the metrics of users, as they were handed over."""
    head = about(**changes)
    runs, users = [], {}
    for place, data in enumerate(head["data"]):
        users[data] = {}
        rng = np.random.default_rng(place)
        has_positive = np.arange(NUM_USERS) % 6 != 5
        easy = rng.gamma(0.4, 1, NUM_USERS)
        for row in head["rows"]:
            runs += _runs(data, row, rng)
            for run in runs:
                if run["data"] == data and run["row"] == row and run["metrics"]:
                    found = _users(ROWS[row][0], easy, has_positive, rng)
                    users[data][row, run["number"]] = found
                    run["metrics"] = json.dumps({name: float(np.nanmean(values)) for name, values in found.items()})
    write_results(folder, head, runs, users)
    return users


def _users(mean, easy, has_positive, rng):
    values = np.minimum(mean * easy / 0.4 * rng.normal(1, 0.03) + 0.01 * rng.random(NUM_USERS), 1)
    values[~has_positive] = np.nan
    return {name: values * factor for name, factor in zip(METRICS, (1, 2, 0.8, 1.5), strict=True)}


def _runs(data, row, rng):
    mean, model, state = ROWS[row]
    base = {
        "data": data,
        "row": row,
        "model": model,
        "status": "done",
        "settings": "{}",
        "metrics": None,
        "numerics": 1,
    }
    base |= {"closed_form": state == "closed", "parameters": {"closed": 8100, "external": None}.get(state, 123_456)}
    runs = []
    tries = {"external": 0, "searching": 3}.get(state, 1 if row == "MostPopular" else TRIES)
    for number in range(tries):
        settings = {"learning_rate": float(f"{rng.random() / 100:.4g}"), "model.num_layers": number} if number else {}
        run = base | {"kind": "search", "number": number, "seed": 0, "settings": json.dumps(settings)}
        run |= {"valid": 2.1 * mean * rng.uniform(0.7, 1.0), "seconds": 30.5, "epochs": 20, "best_epoch": 11}
        if row == "REARM" and number in (2, 5):
            run |= {
                "status": "failed",
                "valid": None,
                "error": "NonFiniteError: <b>loss</b> is nan at step 12 | a_b & c",
            }
        if row == "FREEDOM/no graph" and number == 4:
            run |= {"status": "pruned"}
        runs.append(run)
    seeds = {"closed": 1, "external": 1, "searching": 0}.get(state, SEEDS)
    for number in range(seeds):
        run = base | {"kind": "external" if state == "external" else "final", "number": number, "seed": number}
        if state == "one failed" and number == 1:
            runs.append(run | {"status": "failed", "error": "killed"})
            continue
        if state != "external":
            run |= {"device": "cpu" if state == "closed" else "NVIDIA H200"}
        runs.append(run | {"metrics": "{}", "slices": json.dumps(_slices(mean, rng))})
    if state in ("done", "one failed", "closed"):
        seconds = {"closed": 0.21, "done": 41.3, "one failed": 640.0}[state] * rng.uniform(0.6, 1.5)
        run = base | {"kind": "timing", "number": 0, "seed": 0, "peak_bytes": int(3e8 + seconds * 1e6)}
        run |= {"seconds": seconds} if state == "closed" else {"seconds": 2 * seconds, "seconds_to_best": seconds}
        runs.append(run | {"seconds_per_epoch": None if state == "closed" else seconds / 12})
    return runs


def _slices(mean, rng):
    history = [
        {"train_interactions": list(span), "users": users, **{name: mean * rng.uniform(0.5, 1.5) for name in METRICS}}
        for span, users in (((0, 0), 8), ((1, 4), 50), ((5, 8), 48), ((9, 14), 52), ((15, 60), 42))
    ]
    popularity = [
        {
            "train_interactions": list(span),
            "items": 18,
            "positives": 64,
            "found": int(64 * min(1, mean * rng.uniform(0, 4))),
        }
        for span in ((0, 3), (4, 8), (9, 17), (18, 40), (41, 300))
    ]
    lists = {"coverage@20": rng.uniform(0.2, 0.9), "gini@20": rng.uniform(0.5, 0.9), "novelty@20": -math.log2(mean)}
    lists |= {"coverage@10": 0.1, "gini@10": 0.95, "novelty@10": -math.log2(mean)}
    return {"by_history": history, "by_popularity": popularity, "lists": lists}
