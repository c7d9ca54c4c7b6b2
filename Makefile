# Everything a person or a machine does here goes through make. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The template is a text to copy; its own test installs it.
PLUGINS := $(filter-out %-template,$(wildcard plugins/tokenred-*))
PIP := $(BIN)/python -m pip --disable-pip-version-check
FLOOR := $(VENV)/floor
LMMS := $(VENV)/lmms
PEERS := $(VENV)/peers
FLOOR_TESTS := $(addprefix tests/integration/test_,$(addsuffix .py,conformance attach attach_safety \
	in_llm in_llm_models in_llm_pruning qwen_vl llava_video loading)) tests/golden/test_golden.py
WORKERS ?= 2
# One thread a process: the models of the tests are tiny, and several processes run beside each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)
ARGS ?=

.PHONY: help setup lint format types layers test test-floor test-lmms faults browser conformance docs docs-serve ablate bench ci constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# torch comes first and by its exact version, so that a local CPU build of it is taken where there is
# one and no other package can pull in another.
$(STAMP): pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS))
	@echo "setup: installing into $(VENV) (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenred needs Python 3.11 or newer; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	@$(PIP) install --quiet -c constraints.txt -e '.[all,dev,docs]'
	@$(PIP) install --quiet --no-deps --no-build-isolation $(addprefix -e ,$(PLUGINS))
	@touch $@
	@echo "setup: done, $$($(BIN)/tokenred --version)"

setup: $(STAMP)  ## create .venv with everything in it

lint: setup  ## ruff: rules and format
	@echo "lint: ruff check, ruff format --check"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup  ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup  ## mypy on tokenred/
	@echo "types: mypy"
	@$(BIN)/mypy

layers: setup  ## import-linter: which layer may import which
	@echo "layers: import-linter"
	@$(BIN)/lint-imports

test: setup  ## all tests; ARGS="tests/unit -k pool" runs some, WORKERS=0 in one process
	@echo "test: pytest $(ARGS)"
	@$(PYTEST) $(ARGS)

$(FLOOR)/.installed: floor.txt $(STAMP)
	@echo "floor: installing the oldest supported transformers into $(FLOOR)"
	@rm -rf $(FLOOR)
	@$(PIP) install --quiet --no-deps --target $(FLOOR) -r floor.txt
	@touch $@

test-floor: $(FLOOR)/.installed  ## tests of models, on the oldest transformers that is supported
	@echo "test-floor: pytest on $$(grep '^transformers' floor.txt)"
	@PYTHONPATH=$(FLOOR) $(PYTEST) $(FLOOR_TESTS)

$(LMMS)/.installed: lmms.txt $(STAMP)
	@echo "lmms: installing lmms-eval into $(LMMS)"
	@rm -rf $(LMMS)
	@$(PIP) install --quiet --no-deps --target $(LMMS) -r lmms.txt
	@touch $@

test-lmms: $(LMMS)/.installed  ## tests of the model and the suite for lmms-eval, with the real one
	@echo "test-lmms: pytest on $$(grep '^lmms-eval' lmms.txt)"
	@PYTHONPATH=$(LMMS):tests/lmms/shim OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -c tests/lmms/pytest.ini tests/lmms

faults: setup  ## seeded faults, each of which a test must catch; ARGS="--only store" runs some
	@PYTHONPATH=tests $(BIN)/python -m faults $(ARGS)

browser:  ## a Chromium for the test of the report page; Debian's is installed where there is none
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		echo "browser: installing Debian's chromium"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	}

conformance: $(FLOOR)/.installed  ## the conformance matrix, on both ends of the supported range
	@PYTHONPATH=$(FLOOR) $(BIN)/tokenred conformance --record docs/reference/conformance.json
	@$(BIN)/tokenred conformance --record docs/reference/conformance.json

docs: setup  ## build the site into site/, its examples run on the way
	@echo "docs: mkdocs build --strict"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: open site/index.html"

docs-serve: setup  ## read the site while writing it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

ablate: setup  ## what each part of AOT is worth: encode, reduce, answer, print the table
	@$(BIN)/tokenred ablate $(ARGS)

$(PEERS)/.installed: benchmarks/speed/peers.txt $(STAMP)
	@echo "bench: installing the other solvers into $(PEERS)"
	@rm -rf $(PEERS)
	@$(PIP) install --quiet --no-deps --target $(PEERS) -r benchmarks/speed/peers.txt
	@touch $@

bench: $(PEERS)/.installed  ## speed against every peer; ARGS=--quick shows that it runs, ARGS=--full takes longer
	-@$(BIN)/tokenred native build
	@PYTHONPATH=$(PEERS) $(BIN)/python -m benchmarks.speed $(ARGS)

ci: lint types layers test test-floor test-lmms docs  ## everything that .ci/run runs

constraints: setup  ## write the versions now installed to constraints.txt
	@{ grep '^#' constraints.txt; $(PIP) freeze --all --exclude pip --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' | sort -f; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove what the other targets made, except .venv
	@rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
