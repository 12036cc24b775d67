# One verb per thing that people do here; CI calls only these.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := requirements/gateway.txt requirements/tensorflow.txt requirements/dev.txt
STUBS := microtome/tfserving/v1

.PHONY: help setup run test check lint format types contracts protos protos-check lock clean

help:            ## show the verbs
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(BIN)/.ready            ## create .venv with hash-locked dependencies (seconds when nothing changed)

$(BIN)/.ready: $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Microtome needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Say make PYTHON=python3.11 ...")'
	@echo "Installing dependencies into $(VENV) (about 1 GB is downloaded the first time; TensorFlow is most of it) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --disable-pip-version-check --progress-bar on --no-deps --require-hashes $(LOCKS:%=-r %)
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

run: setup            ## serve the default recipe on port 8000 (ARGS="--port 9000" passes options on)
	@exec $(BIN)/microtome up $(ARGS)

test: setup            ## run all tests, real processes included (ARGS="-k cache" passes options on)
	@$(BIN)/python -m pytest $(ARGS)

check: lint types contracts protos-check            ## everything that CI holds beside the tests

lint: setup            ## ruff, rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup            ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup            ## mypy, strict
	@$(BIN)/mypy

contracts: setup            ## who may import whom, see docs/architecture.md
	@$(BIN)/lint-imports

protos: setup            ## regenerate the stubs from protos/
	@$(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. $$(find protos -name '*.proto' | sort)

protos-check: protos            ## fail when the committed stubs are not what protos/ says
	@test -z "$$(git status --porcelain -- $(STUBS))" || { git --no-pager diff -- $(STUBS); echo "Stubs differ from protos/: run make protos and commit."; exit 1; }

lock: setup            ## resolve the requirement files anew
	@for set in gateway tensorflow dev; do cat requirements/$$set.in; done > $(VENV)/all.in
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate $(VENV)/all.in -o $(VENV)/all.txt
	@for set in gateway tensorflow dev; do \
	    $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	        -c $(VENV)/all.txt requirements/$$set.in -o requirements/$$set.txt; done

clean:            ## remove what the verbs above made (exported models stay)
	@rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
