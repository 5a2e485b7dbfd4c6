"""How much of each fault is tried, and how much was: the numbers of the table in docs/reliability.md."""

import collections
import os
import random
from pathlib import Path

from hypothesis import HealthCheck, settings

FULL = os.environ.get("REARM_FAULTS") == "full"
ROOT = Path(__file__).parent.parent.parent

counts = collections.Counter()  # what was tried -> how often, and it held


def scaled(short: int, full: int) -> int:
    """How many of something: `short` under pytest, `full` where REARM_FAULTS=full."""
    return full if FULL else short


def cases(short: int) -> settings:
    """Settings of a hypothesis test: so many examples under pytest, ten times as many where REARM_FAULTS=full."""
    return settings(max_examples=scaled(short, 10 * short), deadline=None, suppress_health_check=list(HealthCheck))


def random_source() -> random.Random:
    """Its seed is printed, and shown where the test fails; REARM_FAULTS_SEED sets it."""
    seed = int(os.environ.get("REARM_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"REARM_FAULTS_SEED={seed}")
    return random.Random(seed)
