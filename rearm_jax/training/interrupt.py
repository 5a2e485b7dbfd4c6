"""Ctrl-C and SIGTERM as a polite request: the loop finishes its device call, saves, and ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from absl import logging

from rearm_jax.program import INTERRUPTED


class StopRequest:
    """`signal` is the number of the signal that came, or None."""

    signal: int | None = None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request; a second SIGINT kills the process at once, as SIGKILL would.

    In a thread that is not the main one, where Python handles no signals, they are left to the caller.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        request.signal = number
        # Not KeyboardInterrupt, which would wait for a device call to return, and for a save to be written.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        logging.warning("%s: stopping after this call; Ctrl-C again quits at once", signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quit_on_interrupt() -> Iterator[None]:
    """Lets Ctrl-C end the process at once, with its exit code, while there is nothing to save.

    A KeyboardInterrupt that arises in a callback of jax is printed and lost, and the run goes on.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        os.write(2, b"interrupted\n")
        os._exit(INTERRUPTED)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def unwind_on_interrupt() -> Iterator[None]:
    """Lets the first Ctrl-C raise KeyboardInterrupt, so that what is half written is removed; a second one quits."""
    quit_at_once = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, quit_at_once)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, quit_at_once)
