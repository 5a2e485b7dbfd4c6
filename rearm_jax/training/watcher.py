"""Whoever watches a run from outside: told of every evaluation, and able to stop it."""

import signal
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from rearm_jax.errors import ConfigError, shown
from rearm_jax.training.interrupt import StopRequest

OnEvaluation = Callable[[dict[str, Any]], str | None]


def check_on_evaluation(on_evaluation: Any) -> None:
    """Raises ConfigError unless it can be called, or is None."""
    if not (on_evaluation is None or callable(on_evaluation)):
        raise ConfigError(f"on_evaluation = {shown(on_evaluation)}: must be a function of the metrics, or None")


class Watcher:
    """Calls `on_evaluation(metrics)`; where it returns "stop" or fails, the run is asked to stop, as by SIGTERM.

    What it raises is kept until the run has ended cleanly: raised at once, an OSError would pass for the run folder's.
    """

    def __init__(self, on_evaluation: OnEvaluation | None):
        check_on_evaluation(on_evaluation)
        self._on_evaluation = on_evaluation
        self._error: Exception | None = None

    def __call__(self, metrics: Mapping[str, Any], request: StopRequest) -> None:
        """Args: what metrics.jsonl has of the evaluation; where to ask the run to stop."""
        if self._on_evaluation is None:
            return
        try:
            answer = self._on_evaluation(dict(metrics))
            if answer is not None and not (isinstance(answer, str) and answer == "stop"):
                raise ConfigError(f'on_evaluation returned {shown(answer)}: must return "stop", or None to go on')
        except Exception as error:
            self._error = error
        if self._error is not None or answer == "stop":
            logging.info("on_evaluation stops the run")
            request.signal = signal.SIGTERM

    def raise_error(self) -> None:
        """Raises what `on_evaluation` raised, or a ConfigError where it returned something else than it may."""
        if self._error is not None:
            raise self._error
