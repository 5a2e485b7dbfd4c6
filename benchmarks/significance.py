"""Simulated tables of models: is the same model under other seeds a tie, and are effects found with the computed power?

python -m benchmarks.significance [--repetitions 500] [--output benchmarks/results/significance.md]

Users have effects that two models share, and each run has an effect of its seed and of its seed by user. The test of
rearm_jax.evaluation.significance stands beside what is usual: the paired t-test over users of means over seeds, the
t-test over seeds of means over users, and the plain two-way bootstrap (its variance, in closed form).
"""

import argparse
import math
import platform
from pathlib import Path

import numpy as np
import scipy
import scipy.stats

from rearm_jax.evaluation.significance import compare, power, standard_error

USERS = 500
# Per-user NDCG@20 has a standard deviation of about .2 between users. Seeds: none, hardly any, some, much.
EFFECTS = ((0.0, 0.1), (0.002, 0.1), (0.005, 0.1), (0.02, 0.05))
SEEDS = (3, 5, 10)
USER_SD = 0.05  # of the users' differences between two models, where they are not the same
SHIFTS = (1.5, 3.0)  # in standard errors


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.significance", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--output", type=Path, help="Markdown file; without it, on the screen alone")
    arguments = parser.parse_args()
    text = report(arguments.repetitions)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def report(repetitions: int) -> str:
    """Both tables, as Markdown."""
    lines = [
        f"{USERS:,} users, {repetitions:,} repetitions (a share of .95 has a standard error of "
        f"{math.sqrt(0.95 * 0.05 / repetitions):.3f}); python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}.",
        "",
        "The same model under two disjoint sets of seeds: share of repetitions that are a tie (p of at least .05), "
        "which should be .95.",
        "",
        "| seeds | sd of seeds | sd of seeds by users | this test | t over users | t over seeds | plain two-way |",
        "|---|---|---|---|---|---|---|",
    ]
    for num_seeds in SEEDS:
        for seed_sd, both_sd in EFFECTS:
            ties = 1 - shares_found(0.0, 0.0, seed_sd, both_sd, num_seeds, repetitions)
            lines.append(f"| {num_seeds} | {seed_sd} | {both_sd} | " + " | ".join(f"{tie:.3f}" for tie in ties) + " |")
    lines += [
        "",
        f"Two models whose users' true differences have a standard deviation of {USER_SD}: share of repetitions in "
        "which the difference is found, and the computed power.",
        "",
        "| seeds | sd of seeds | sd of seeds by users | difference | found | power |",
        "|---|---|---|---|---|---|",
    ]
    for num_seeds in SEEDS:
        for seed_sd, both_sd in EFFECTS:
            error, degrees = standard_error(USER_SD, seed_sd, both_sd, USERS, num_seeds)
            for shift in SHIFTS:
                found = shares_found(shift * error, USER_SD, seed_sd, both_sd, num_seeds, repetitions)[0]
                computed = power(shift * error, error, degrees)
                lines.append(
                    f"| {num_seeds} | {seed_sd} | {both_sd} | {shift * error:.4f} | {found:.3f} | {computed:.3f} |"
                )
    return "\n".join(lines)


def shares_found(
    shift: float, user_sd: float, seed_sd: float, both_sd: float, num_seeds: int, repetitions: int
) -> np.ndarray:
    """How often each of the four tests finds a difference at .05, where the true one is `shift`."""
    rng, found = np.random.default_rng(0), np.zeros(4)
    for _ in range(repetitions):
        users = rng.normal(0.3, 0.2, USERS)
        effects = (users + shift + rng.normal(0, user_sd, USERS), users)
        a, b = (
            user + rng.normal(0, seed_sd, (num_seeds, 1)) + rng.normal(0, both_sd, (num_seeds, USERS))
            for user in effects
        )
        found += np.array([*_p_values(a, b)]) < 0.05
    return found / repetitions


def _p_values(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    of_users, num_seeds = a.mean(axis=0) - b.mean(axis=0), len(a)
    this = compare({"a": a, "b": b}, "b", num_resamples=200)["a"].difference.p
    over_users = scipy.stats.ttest_1samp(of_users, 0).pvalue
    over_seeds = scipy.stats.ttest_ind(a.mean(axis=1), b.mean(axis=1)).pvalue
    seeds = sum(run.mean(axis=1).var() / num_seeds for run in (a, b))
    both = sum((run - run.mean(axis=0) - run.mean(axis=1, keepdims=True) + run.mean()).var() for run in (a, b))
    variance = of_users.var() / USERS + seeds + both / (num_seeds * USERS)
    plain = 2 * scipy.stats.norm.sf(abs(of_users.mean()) / math.sqrt(variance))
    return this, over_users, over_seeds, plain


if __name__ == "__main__":
    main()
