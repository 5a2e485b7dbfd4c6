"""What all command lines share: exit codes, the log, and --help, each command in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rearm_jax.errors import DataError
from rearm_jax.program import run_program

ROOT = Path(__file__).parent.parent
COMMANDS = ("main", "inference.convert", "data.download", "data.prepare")


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"rearm_jax.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("module", COMMANDS)
def test_help_looks_alike_and_a_wrong_flag_is_explained(module):
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"usage: python -m rearm_jax.{module} [-h] ")
    meanings = done.stdout.split("\noptions:\n")[1].splitlines()
    assert re.fullmatch(r"  -h, --help +show this help message and exit", meanings[0])
    assert all(re.match(r"  --[a-z_]+\b|  {8}", line) for line in meanings[1:])
    wrong = run(module, "--nosuch=1")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert re.match("error: .*nosuch|error: .*(required|name)", wrong.stderr)
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (None, 0, ""),
        (DataError("data.csv, line 3: mend it"), 1, "error: data.csv, line 3: mend it\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ZeroDivisionError("by 0"), 70, "ZeroDivisionError: by 0\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(capsys, error, code, words):
    def body():
        if error is not None:
            raise error
        return 0

    assert run_program(body) == code
    assert capsys.readouterr().err.endswith(words)
    assert run_program(body, after_error=lambda found: found + 1000) == code + 1000 * (code in (1, 70))


def test_the_log_is_plain_and_says_what_is_a_warning():
    script = (
        "import sys; from absl import logging; from rearm_jax.program import run_program\n"
        "def body():\n"
        "    logging.info('%d rows', 3)\n"
        "    logging.warning('two lines\\nof it')\n"
        "    return 5\n"
        "sys.exit(run_program(body))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "3 rows\nwarning: two lines\nof it\n")
