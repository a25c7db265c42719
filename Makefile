# Two commands do all the set-up: `make demo` and `make test`. Needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN    ?= runs/demo
PYTEST ?= -n 2
READY  := $(VENV)/.ready
LINTER := $(VENV)/.ready-dev
NATIVE := $(VENV)/.ready-native
CXX    ?= c++

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench sanitize clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY) $(NATIVE)  ## train on digits, audit the gradients, draw the figures
	$(BIN)/dither train --out $(RUN) --overwrite
	$(BIN)/dither audit $(RUN)
	$(BIN)/dither plot $(RUN)

test: $(READY) $(NATIVE)  ## run the tests; PYTEST="-x -q tests/data" chooses
	$(BIN)/python -m pytest -q $(PYTEST)

lint: $(LINTER)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(LINTER)  ## let ruff put the sources in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) $(NATIVE)  ## what sampling and training steps cost; `dither bench list` names the others
	$(BIN)/dither bench sampling
	$(BIN)/dither bench step

sanitize:  ## the native kernels' own tests under the address, undefined-behaviour and thread sanitizers
	bash csrc/tests/sanitize.sh

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

# Native kernels where there is a compiler. Without one, or if they cannot be built, all works as well, only slower: `dither env`
# says which path is in use.
$(NATIVE): $(READY) csrc/CMakeLists.txt csrc/pyproject.toml $(wildcard csrc/src/*)
	@if command -v $(CXX) > /dev/null; then $(PIP) ./csrc || echo "dither runs without native kernels: they could not be built" >&2; \
	else echo "dither runs without native kernels: there is no C++ compiler $(CXX)" >&2; fi
	@touch $@

$(LINTER): $(READY)
	$(PIP) -e '.[dev]'
	@touch $@
