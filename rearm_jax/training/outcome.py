"""What a finished run says of itself to people: a table, what is weak about it, and what to do next."""

import shlex
from collections.abc import Iterable, Mapping

from absl import logging

from rearm_jax.training.distributed import is_first

ENOUGH_POSITIVES = 200  # test interactions of a group of items, from which on finding none of them means something


def table(result: Mapping, metric: str) -> str:
    """The metric that chose the checkpoint and three more on test, beside the yardsticks; result.json has the rest.

    Where test was not scored, the three are on validation; where that is empty, too, a refit has those of the run that
    it was made from, which say so.

    Args:
      result: content of result.json.
      metric: `config.evaluation.metric`.
    """
    if not _scored(result):
        return "\n".join(_unscored_lines(result, metric))
    columns = {result["model"]: result, **result["yardsticks"]}
    epochs = f"best epoch {result['best_epoch']} of {result['epochs']}, " if result["epochs"] else ""
    residual = result.get("residual")
    beside = f"; residual {residual['model']}, weight {residual['weight']:g}" if residual else ""
    unscored = (
        "" if _last_split(result) == "test" else "; test was not scored (it is empty, or config.evaluation.test is off)"
    )
    lines = [f"{epochs}{result['seconds']:.0f} s{beside}{unscored}"]
    lines.append(f"{'':24}" + "".join(f"{name:>14}" for name in columns))
    keys = [f"valid/{metric}", *(f"{_last_split(result)}/{name}" for name in headline_metrics(metric))]
    for key in (key for key in dict.fromkeys(keys) if key in result):
        lines.append(f"{key:24}" + "".join(f"{values[key]:14.4f}" for values in columns.values()))
    return "\n".join(lines)


def headline_metrics(metric: str) -> list[str]:
    """`metric` and the three next to it at the same cut-off."""
    cutoff = metric.split("@")[1]
    names = ("recall", "ndcg", "precision", "hitrate")
    return list(dict.fromkeys((metric, *(f"{name}@{cutoff}" for name in names))))[:4]


def weaknesses(result: Mapping, metric: str) -> list[str]:
    """What is weak about a run, each with what to try; nothing where it beats most-popular and finds rare items, too.

    Args: as `table`.
    """
    if not _scored(result):
        return []
    found = []
    key = f"{_last_split(result)}/{metric}"
    model, popular = result[key], result["yardsticks"]["most_popular"][key]
    if model <= popular and not result["epochs"] and result["model"] != "popular":
        found.append(
            f"This run does not beat recommending the most popular items to everyone: {key} is {model:.4f}, theirs "
            f"{popular:.4f}. Try other settings of the model, smaller and larger ones by factors, and "
            f"{_other_model(result)}: where both fail, the interactions tell little."
        )
    elif model <= popular and result["epochs"]:
        found.append(
            f"This run does not beat recommending the most popular items to everyone: {key} is {model:.4f}, theirs "
            f"{popular:.4f}. Try {_longer(result)}a learning rate such as config.learning_rate=1e-3 (the default is "
            "for the paper's large data) or a tenth of yours. See that row i of each NAME_feat.npy belongs to item i. "
            f"Try {_other_model(result)}, too: where both fail, the interactions tell little."
        )
    for group in result.get("test_by_popularity", ()):
        if group["found"] == 0 and group["positives"] >= ENOUGH_POSITIVES:
            low, high = group["train_interactions"]
            train = f"{low}" if low == high else f"{low} to {high}"
            found.append(
                f"This run finds nothing among the {group['items']:,} items with {train} train interactions: none of "
                f"their {group['positives']:,} test interactions is in the first {metric.split('@')[1]} of its user. "
                f"Try {_for_rare_items(result)}."
            )
    return found


def say_weaknesses(result: Mapping, metric: str) -> None:
    """Logs `weaknesses` as warnings, once among several processes."""
    if is_first():
        for weakness in weaknesses(result, metric):
            logging.warning("%s", weakness)


def next_commands(program: str, workdir: str, user_ids: Iterable) -> str:
    """The commands that use a finished run, ready to copy.

    Args:
      program: how this program was called, without its arguments.
      workdir: the run folder.
      user_ids: outside ids of users; two of them become the example.
    """
    # What `--users` would take apart or cut is no example.
    plain = (str(user) for user in user_ids if "," not in str(user) and str(user) == str(user).strip())
    users = ",".join(user for user, _ in zip(plain, range(2), strict=False))
    recommend = ["recommend", *(["--users", users] if users else []), "--k", "10"]
    folder = ["--workdir", workdir]
    lines = [shlex.join(["--mode", mode, *folder, *more]) for mode, *more in (["evaluate"], recommend)]
    lines += [shlex.join(["--mode", mode, *folder]) for mode in ("export", "visualize")]
    return "\n".join(["next:", *(f"  {program} {line}" for line in lines)])


def _scored(result: Mapping) -> bool:
    return any(key.startswith(("valid/", "test/")) for key in result)


def _unscored_lines(result: Mapping, metric: str) -> list[str]:
    epochs = f"{result['epochs']} epochs, " if result["epochs"] else ""
    lines = [f"{epochs}{result['seconds']:.0f} s; nothing was scored: validation and test are empty"]
    origin = result.get("refit_of")
    if origin:
        lines.append(f"the settings are those of {origin['run']}, which had these figures, and not this run:")
        keys = [f"{split}/{metric}" for split in ("valid", "test")]
        lines += [f"{key:24}{origin['metrics'][key]:14.4f}" for key in keys if key in origin["metrics"]]
    return lines


def _last_split(result: Mapping) -> str:
    # Earlier versions always scored test, and did not say so.
    return "test" if result.get("test_scored", True) else "valid"


def _longer(result: Mapping) -> str:
    if result["best_epoch"] < result["epochs"]:
        return ""
    return "more epochs, as the best was the last (config.num_epochs; the same run goes on), or "


def _other_model(result: Mapping) -> str:
    return f"config.model.name={'rearm' if result['model'] == 'lightgcn' else 'lightgcn'} in another run folder"


def _for_rare_items(result: Mapping) -> str:
    rearm = "REARM, which knows rare items by their features, too (config.model.name=rearm)"
    if not result["epochs"]:
        return rearm
    if result["model"] == "lightgcn":
        return f"a larger config.loss.l2_weight, and {rearm}"
    return (
        "a larger config.loss.l2_weight, and a smaller config.graph.item_cooccurrence_weight, which leaves rare "
        "items to their features (the nearest neighbours in the report show whether these tell items apart)"
    )
