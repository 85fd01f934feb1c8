# `make demo` and `make test` do all of their own set-up, in .venv. Both keep what they installed for the next time.
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-gpu lint clean

BIN := .venv/bin
# Always constrained. The build backend is installed rather than fetched for each build: see .venv/.made.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL_PACKAGE := $(INSTALL) --no-build-isolation
# One thread in each of two test processes: small networks run slower on more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Trains in runs/demo, or in the next free name once that one is complete; one that was interrupted is resumed.
demo: .venv/.demo
	@run=runs/demo; n=1; \
	while [ -e $$run/curve.png ]; do n=$$((n + 1)); run=runs/demo-$$n; done; \
	if [ -e $$run ]; then $(BIN)/graftwork resume $$run; else $(BIN)/graftwork train dqn/cartpole run_dir=$$run; fi; \
	$(BIN)/graftwork evaluate $$run --episodes 100; \
	$(BIN)/graftwork report $$run

test: .venv/.test lint
	$(PYTEST)

# The learning runs: hours.
test-slow: .venv/.test
	$(PYTEST) -m slow --timeout 0

# Needs a CUDA device.
test-gpu: .venv/.test
	$(PYTEST) -m gpu

# Types and layers are checked in the wheel as installed, so that what packaging leaves out is an error here.
lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(INSTALL) --no-deps --target build/installed build/wheel/*.whl
	for file in py.typed $$(find configs/presets validation/comparisons -name '*.yaml'); do \
		[ -e build/installed/graftwork/$$file ] || { echo "the wheel lacks $$file"; exit 1; }; \
	done
	MYPYPATH=build/installed $(BIN)/mypy --strict --package graftwork
	PYTHONPATH=build/installed $(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv build dist *.egg-info .*_cache

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "graftwork needs Python 3.11 or newer, and $(PYTHON) is not; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into .venv. The first time takes a few minutes, most of them for torch."
	@$(PYTHON) -m venv --clear .venv
	@$(INSTALL) setuptools
	@touch $@

.venv/.demo: .venv/.made pyproject.toml constraints.txt
	@$(INSTALL_PACKAGE) --editable '.[data]'
	@touch $@

.venv/.test: .venv/.made pyproject.toml constraints.txt
	@$(INSTALL_PACKAGE) --editable '.[test,tensorboard,box2d,atari,minatar,sb3]'
	@touch $@
