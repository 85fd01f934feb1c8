# `make demo` and `make test` do all of their own set-up, in .venv, and `make bench` does in .venv-bench, where other
# libraries are. All keep what they installed for the next time.
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-gpu lint clean bench bench-quick bench-gpu

BIN := .venv/bin
# Always constrained. The build backend is installed rather than fetched for each build: see .venv/.made.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL_PACKAGE := $(INSTALL) --no-build-isolation
SUITE := PYTHONPATH=benchmarks .venv-bench/bin/python -P -m suite
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

# ONLY="dqn-zoo start" runs these workloads alone. What comes out: docs/benchmarks.md.
bench: .venv-bench/.cpu
	$(SUITE) --only $(ONLY)

# Ten minutes.
bench-quick: .venv-bench/.cpu
	$(SUITE) --scale quick --only $(ONLY)

# Needs a CUDA device.
bench-gpu:
	@nvidia-smi -L >/dev/null 2>&1 || { echo "make bench-gpu needs a CUDA device, and nvidia-smi finds none"; exit 2; }
	@$(MAKE) --no-print-directory .venv-bench/.cuda
	$(SUITE) --gpu --only $(ONLY)

clean:
	rm -rf .venv .venv-bench build dist *.egg-info .*_cache

.venv/.made .venv-bench/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "graftwork needs Python 3.11 or newer, and $(PYTHON) is not; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(@D). The first time takes a few minutes, most of them for torch."
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@touch $@

.venv/.demo: .venv/.made pyproject.toml constraints.txt
	@$(INSTALL_PACKAGE) --editable '.[data]'
	@touch $@

.venv/.test: .venv/.made pyproject.toml constraints.txt
	@$(INSTALL_PACKAGE) --editable '.[test,tensorboard,box2d,atari,minatar,sb3]'
	@touch $@

# Of peers that cannot be had it says so, in a line each, and goes on.
.venv-bench/.cpu .venv-bench/.cuda: .venv-bench/.made pyproject.toml constraints.txt benchmarks/suite/install.py benchmarks/suite/jax.txt
	@.venv-bench/bin/python benchmarks/suite/install.py $(@F:.%=%)
	@touch $@
