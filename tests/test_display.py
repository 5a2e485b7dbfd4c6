"""What is shown while an epoch trains, by a clock of the test's own."""

import io
import itertools
import logging as standard_logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging

from rearm_jax.training import display
from rearm_jax.training.display import EpochDisplay, log_shown

ROOT = Path(__file__).parent.parent


@pytest.fixture
def log(caplog):
    """The log at level INFO, as the command line sets it."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield caplog
    logging.set_verbosity(before)


def run_epoch(calls, done=0, shown=True):
    """An epoch whose calls take (steps, seconds); the times at which something was logged, the end among them."""
    now = [1000.0]
    times, total = [now[0]], done + sum(steps for steps, _ in calls)
    logger = standard_logging.getLogger("absl")

    class Times(standard_logging.Handler):
        def emit(self, record):
            times.append(now[0])

    handler = Times()
    logger.addHandler(handler)
    try:
        with EpochDisplay(3, total, done, shown, clock=lambda: now[0]) as shower:
            for steps, seconds in calls:
                now[0] += seconds
                shower.update(steps)
    finally:
        logger.removeHandler(handler)
    return [*times, now[0]]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 4.0, 7.0, 13.0, 16.0, 29.0])
def test_pauses_are_at_most_half_a_minute(log, seconds):
    times = run_epoch([(1, seconds)] * 100)
    assert max(b - a for a, b in itertools.pairwise(times)) <= 30
    assert len(times) <= 2 + min(100, 100 * seconds / 12.5)  # and not more talkative than it must be


def test_short_epochs_say_nothing(log):
    assert len(run_epoch([(10, 4.0)] * 4)) == 2


def test_a_line_has_step_speed_and_time_left(log):
    run_epoch([(8, 4.0)] * 200, done=400)
    first, *_, last = [record.getMessage() for record in log.records]
    # 6 calls of 4 s are the last before 25 s: 48 steps at 2 a second, 1,552 are left.
    assert first == "epoch 3: step 448 of 2000, 2 steps/s, 12 min 56 s left"
    assert re.fullmatch(r"epoch 3: step \d+ of 2000, 2 steps/s, \d+ s left", last)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (9000, "2 h 30 min")]
)
def test_durations(seconds, text):
    assert display._duration(seconds) == text


@pytest.mark.parametrize("silence", ["progress", "verbosity"])
def test_silence(log, silence):
    if silence == "verbosity":
        logging.set_verbosity(logging.WARNING)
    assert len(run_epoch([(1, 20.0)] * 10, shown=silence != "progress")) == 2


def test_a_terminal_gets_a_bar_and_no_lines(log, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert len(run_epoch([(1, 20.0)] * 10)) == 2
    assert "epoch 3" in terminal.getvalue()


SCRIPT = """
import logging, sys
import absl.logging
from rearm_jax.training.display import log_shown
if "own" in sys.argv:
    logging.basicConfig(format="mine: %(message)s")
with log_shown("show" in sys.argv):
    absl.logging.info("news")
    absl.logging.warning("careful")
absl.logging.info("after")
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show"], ["news", "warning: careful"]),
        ([], ["warning: careful"]),
        (["show", "own"], ["mine: news", "mine: careful"]),
    ],
)
def test_the_log_of_a_program_that_has_none(arguments, expected):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines() == expected


def test_the_level_is_put_back():
    before = logging.get_verbosity(), standard_logging.getLogger().handlers[:]
    with log_shown(True):
        assert logging.level_info()
        with log_shown(False):
            assert not logging.level_info()
    assert (logging.get_verbosity(), standard_logging.getLogger().handlers) == before
