# From a fresh clone, with Python 3.11 or later and nothing else:  make demo   and   make test
#
# Another Python:        make demo PYTHON=python3.12
# Another environment:   make test VENV=/some/folder

SHELL := /bin/sh
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(RECENT)' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
SETTLED := pyproject.toml constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint types format golden docs docs-serve clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.core  ## Install, then train a small GPT on real text and let it talk
	@$(BIN)/gptwright demo

test: check  ## Lint, types and tests: what CI runs
	$(BIN)/python -m pytest -n 2

test-all: check  ## The same, with every combination of parts and generated code (about an hour)
	$(BIN)/python -m pytest -m ""

check: lint types  ## Lint and types only

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(VENV)/.dev  ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(VENV)/.dev  ## Write the golden files anew, for their diff to be read
	$(BIN)/gptwright config schema > tests/golden/schema.json
	$(BIN)/python tests/test_public_api.py > tests/golden/public_api.txt

docs: $(VENV)/.docs  ## Build the documentation into site/
	$(BIN)/python docs/write_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: docs  ## Show the documentation in a browser
	$(BIN)/mkdocs serve

clean:  ## Remove the environment and everything built; runs/ stays
	rm -rf $(VENV) site docs/reference build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that the environment holds what pyproject.toml and constraints.txt ask for.
$(VENV)/.made:
	@$(PYTHON) -c '$(RECENT)' 2>/dev/null || { \
		found=$$($(PYTHON) -c 'import platform; print("Python " + platform.python_version())' 2>/dev/null); \
		echo "gptwright needs Python 3.11 or later, but '$(PYTHON)' is $${found:-no Python that runs};" \
			"install a later one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made $(SETTLED)
	@echo "installing gptwright into $(VENV) (the first time downloads PyTorch, which takes minutes)"
	$(INSTALL) .
	@touch $@

$(VENV)/.dev: $(VENV)/.made $(SETTLED)
	@echo "installing gptwright and its tools into $(VENV)"
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.made $(SETTLED)
	$(INSTALL) '.[docs]'
	@touch $@ $(VENV)/.core
