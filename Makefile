# SPDX-License-Identifier: Apache-2.0
# Each target sets up what it needs: a virtual environment in .venv, once. Nothing is installed outside the checkout.

# The first Python of at least 3.11 that can make virtual environments; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv demo test test-bounds check format clean

help:
	@echo "make demo    simulate, run, compare: the whole path on a made-up person (minutes)"
	@echo "make test    all tests, with linters and type check"
	@echo "make test-bounds  all tests with bounds checks in the kernels: slow"
	@echo "make check   linters, type check, layout: seconds"
	@echo "make format  put all sources into the project's format"
	@echo "make venv    only set up $(VENV)"
	@echo "make clean   remove everything that was made"

# Editable: sources are used where they are. Set up again when the dependencies change.
$(VENV)/.stamp: pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with the venv module was found (Debian: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

venv: $(VENV)/.stamp

demo: venv
	$(BIN)/megabolt demo --outdir demo

test: venv
	@.ci/run

# Kernels with checks have a cache folder of their own. The guard pages of tests/safety are for kernels without.
test-bounds: venv
	NUMBA_BOUNDSCHECK=1 $(BIN)/megabolt warmup --quiet >/dev/null
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -n 2 --dist loadfile -o timeout=3600

check: venv
	$(BIN)/ruff format --check megabolt tests benchmarks
	$(BIN)/ruff check megabolt tests benchmarks
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflows
	$(BIN)/python -m pytest -q tests/test_layout.py

format: venv
	$(BIN)/ruff format megabolt tests benchmarks
	$(BIN)/ruff check --fix megabolt tests benchmarks
	$(BIN)/snakefmt workflows

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .snakemake
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
