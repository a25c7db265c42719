# Two commands do all the set-up: `make demo` and `make test`. Needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN    ?= runs/demo
PYTEST ?= -n 2
READY  := $(VENV)/.ready
LINTER := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## train on digits, audit the gradients, draw the figures
	$(BIN)/dither train --out $(RUN) --overwrite
	$(BIN)/dither audit $(RUN)
	$(BIN)/dither plot $(RUN)

test: $(READY)  ## run the tests; PYTEST="-x -q tests/data" chooses
	$(BIN)/python -m pytest -q $(PYTEST)

lint: $(LINTER)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(LINTER)  ## let ruff put the sources in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## the cost of K samples against one
	$(BIN)/dither bench samples

clean:  ## remove what the targets made, but not your runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit("dither needs Python >= 3.11 but $(PYTHON) is " + v + ": make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: the pinned build is then what everything after it is resolved against. Where the
# default torch carries GPU libraries, PIP_EXTRA_INDEX_URL may name PyTorch's index of CPU builds.
$(READY): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e '.[test,plots]'
	@touch $@

$(LINTER): $(READY)
	$(PIP) -e '.[dev]'
	@touch $@
