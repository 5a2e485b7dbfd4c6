"""Faults done to whole runs, on purpose. In pytest a shortened form; `python -m tests.faults` runs all of it."""
