"""One side of the comparison as a process of its own, driven through its standard input.

    python -m benchmarks.worker SIDE FOLDER      SIDE: jax, torch or torch-compile

Each line is a JSON object, and so is each answer:
  {"make": PART}       makes the part's inputs; done by the others as well, and never timed
  {"first": PART}      {"seconds"} of one call
  {"run": PART}        {"seconds"}, the mean over as many calls as take 0.1 s (one, if it is longer)
  {"drop": PART}       forgets the part and its inputs
  {"parameters": true} {"parameters"}, how many numbers are trained
  {"memory": true}     {"peak", "now"}: bytes that were resident at most since the last such question, and that are now
It ends with its input.
"""

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak

_SHORTEST = 0.1  # seconds of a measurement


def main() -> None:
    """Serves requests until the input ends."""
    side, folder = sys.argv[1:]
    # Only the answers may go to the standard output.
    answers, sys.stdout = sys.stdout, sys.stderr
    module = importlib.import_module(f"benchmarks.{side.split('-')[0]}_side")
    gc.freeze()  # as rearm_jax.main does
    makers = module.load_parts(folder, side)
    made = {}

    def part(name):
        if name not in made:
            made[name] = makers[name]()
        return made[name]

    def answer(request):
        match request:
            case {"make": name}:
                part(name)
            case {"first": name}:
                return {"seconds": _seconds(part(name))}
            case {"run": name}:
                return {"seconds": _mean_seconds(part(name))}
            case {"drop": name}:
                made.pop(name, None)
            case {"parameters": _}:
                return {"parameters": module.count_parameters(folder)}
            case {"memory": _}:
                found = {"peak": peak_bytes(), "now": resident_bytes()}
                restart_peak()
                return found
        return {}

    print(json.dumps({"parts": list(makers)}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def _mean_seconds(part: Callable[[], object]) -> float:
    seconds = [_seconds(part)]
    while sum(seconds) < _SHORTEST:
        seconds.append(_seconds(part))
    # A part may do its work several times in a call, and says so.
    return sum(seconds) / len(seconds) / getattr(part, "count", 1)


def _seconds(part: Callable[[], object]) -> float:
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
