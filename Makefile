# `make demo` and `make test` need Python 3.11+ and nothing else; PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults bench lint types docs clean

demo: .venv/installed
	$(BIN)/python -m rearm_jax.main --config configs/demo.py

# A file at a time in each of two processes: most of the time goes into compiling, which uses one core and a bit.
test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Kills, flipped bits, full disks and bad input, all in full; docs/reliability.md has the figures of the last run.
faults: .venv/installed-dev
	$(BIN)/python -m tests.faults

# rearm_jax beside PyTorch; REARM_DATA names the folder of the data sets (default: data).
bench: .venv/installed-bench
	$(BIN)/python -m benchmarks.run --rounds 2

lint: types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck launch/*.sh launch/slurm.sbatch examples/*.sh .ci/run

# Type hints of the package, which users' checkers read, too (py.typed).
types: .venv/installed-dev
	$(BIN)/mypy

# The documentation, into site/; every warning is an error.
docs: .venv/installed-docs
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv runs .cache site dist

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/installed-bench: requirements-bench.txt .venv/installed
	$(BIN)/pip install --quiet -r requirements-bench.txt
	touch $@

.venv/installed-docs: requirements-docs.txt .venv/installed
	$(BIN)/pip install --quiet -r requirements-docs.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@
