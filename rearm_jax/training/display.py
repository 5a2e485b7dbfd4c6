"""What people see while a run trains: a log in plain lines, and how far the epoch is."""

import contextlib
import logging as standard_logging
import sys
import time
from collections.abc import Callable, Iterator

from absl import logging
from tqdm import tqdm

from rearm_jax.program import Formatter

LINE_SECONDS = 25.0  # between two lines inside an epoch, evaluation and saving not counted


class EpochDisplay:
    """Shows how far an epoch is: a bar on a terminal, elsewhere lines in the log, while that is at level INFO.

    Args:
      epoch: number of the epoch, from 1.
      total: its steps.
      done: how many are done already, where a run goes on.
      shown: `config.log.progress`.
      clock: seconds, for tests.
    """

    def __init__(self, epoch: int, total: int, done: int, shown: bool, clock: Callable[[], float] = time.monotonic):
        self._epoch, self._total, self._first, self._done = epoch, total, done, done
        self._shown = shown and logging.level_info()
        self._clock = clock
        self._start = self._last_line = self._last_call = clock()
        self._bar = tqdm(
            desc=f"epoch {epoch}",
            total=total,
            initial=done,
            unit="step",
            leave=False,
            disable=not (self._shown and sys.stderr.isatty()),
        )

    def __enter__(self) -> "EpochDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, steps: int) -> None:
        """Takes the steps of the call that has just returned."""
        self._done += steps
        self._bar.update(steps)
        now = self._clock()
        seconds, self._last_call = now - self._last_call, now
        # The next call takes as long as this one: waiting for it must not make the pause too long.
        if self._shown and self._bar.disable and now + seconds - self._last_line >= LINE_SECONDS:
            self._last_line = now
            speed = (self._done - self._first) / max(now - self._start, 1e-9)
            left = _duration((self._total - self._done) / speed)
            logging.info(
                "epoch %d: step %d of %d, %.3g steps/s, %s left", self._epoch, self._done, self._total, speed, left
            )


@contextlib.contextmanager
def log_shown(shown: bool) -> Iterator[None]:
    """Shows the log at level INFO while it lasts, or warnings alone.

    It goes where the program sends its log; where it sends none anywhere, to standard error in plain lines.
    """
    before, root = logging.get_verbosity(), standard_logging.getLogger()
    handler = standard_logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    is_own = not root.handlers
    logging.set_verbosity(logging.INFO if shown else logging.WARNING)
    if is_own:
        root.addHandler(handler)
    try:
        yield
    finally:
        if is_own:
            root.removeHandler(handler)
        logging.set_verbosity(before)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
