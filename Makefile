# Needs nothing but make and a Python 3.10, 3.11 or 3.12 (name another one with `make PYTHON=... demo`).
# Everything is installed into .venv, which `make clean` removes.
VENV ?= .venv
BIN := $(VENV)/bin
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.10 python3 python,$(shell $(p) -c '$(SUITABLE)' >/dev/null 2>&1 && echo $(p))))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check docs clean

help:
	@echo "make demo   check the digits example: one policy that passes, one that fails with a counterexample"
	@echo "make test   run the tests (installs TensorFlow, to test the Keras callback)"
	@echo "make check  run the linters: ruff, pyright, import-linter"
	@echo "make docs   build the documentation site into build/site"

demo: $(VENV)/core.stamp
	@PATH="$(abspath $(BIN)):$$PATH" sh examples/digits/demo.sh

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.12 with the venv module found; name one with PYTHON=" >&2; exit 1; }
	$(PYTHON) -c '$(SUITABLE)' || { echo "$(PYTHON) is not a Python 3.10 to 3.12 with the venv module" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev,docs,tensorflow,tfmot]'
	@touch $@ $(VENV)/core.stamp $(VENV)/docs.stamp

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/core.stamp

clean:
	rm -rf $(VENV)
