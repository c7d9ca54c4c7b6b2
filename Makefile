# Everything a person or a machine does here goes through make. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# Each module is compiled when it is first imported, not whenever it is.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
# Two layers: what running tokenred needs, and what its tests, checks and docs need on top.
USER := $(VENV)/.user
DEV := $(VENV)/.dev
EXTRAS := run$(if $(shell command -v nvidia-smi 2>/dev/null),$(comma)gpu)
TORCH ?= $(shell grep '^torch==' constraints.txt)
# The template is a text to copy; its own test installs it.
PLUGINS := $(filter-out %-template,$(patsubst %/pyproject.toml,%,$(wildcard plugins/tokenred-*/pyproject.toml)))
PIP := $(BIN)/python -m pip --disable-pip-version-check
# uv where there is one, pip otherwise. Bytecode is written when a module is first imported.
PIP_INSTALL := $(PIP) install --no-compile --progress-bar off
INSTALL := $(if $(shell command -v uv 2>/dev/null),uv pip install --python $(BIN)/python,$(PIP_INSTALL))
# A line of progress for each package, so that set-up is never silent for minutes.
SHOW := | { grep --line-buffered -E '^(Collecting|  Downloading .* MB|Installing|Processing)' || true; } | cut -c1-110
FLOOR := $(VENV)/floor
LMMS := $(VENV)/lmms
PEERS := $(VENV)/peers
FLOOR_TESTS := $(addprefix tests/integration/test_,$(addsuffix .py,conformance attach attach_safety \
	in_llm in_llm_models in_llm_pruning qwen_vl loading)) tests/golden/test_golden.py \
	plugins/tokenred-llava
WORKERS ?= 2
# One thread a process: the models of the tests are tiny, and several processes run beside each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) $(if $(CI),--durations=10)
ARGS ?=
CI_PARTS := lint types layers test test-floor test-lmms docs

.PHONY: help setup setup-dev lint format types layers test test-thorough test-floor test-lmms simulate faults fuzz browser conformance docs docs-serve ablate bench ci constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# torch comes first, by pip and by its exact version, so that a local build for the CPU is taken where
# there is one and no other package pulls in another. TORCH="torch==... --index-url ..." takes a build
# of your choice.
$(USER): pyproject.toml constraints.txt $(addsuffix /pyproject.toml,$(PLUGINS))
	@echo "setup: installing what tokenred needs to run into $(VENV) (once; a minute or two)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenred needs Python 3.11 or newer; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: 1 of 3, torch"
	@$(PIP_INSTALL) $(TORCH) hatchling editables -c constraints.txt $(SHOW)
	@echo "setup: 2 of 3, transformers and the other libraries"
	@$(INSTALL) --no-build-isolation -c constraints.txt -e '.[$(EXTRAS)]' $(SHOW)
	@echo "setup: 3 of 3, the published methods"
	@$(PIP_INSTALL) --quiet --no-deps --no-build-isolation $(addprefix -e ,$(PLUGINS))
	@touch $@
	@echo "setup: done, $$($(BIN)/tokenred --version)"

$(DEV): $(USER)
	@echo "setup: adding what tests, checks and docs need (once; a minute or two)"
	@$(INSTALL) --no-build-isolation -c constraints.txt -e '.[dev,docs]' $(SHOW)
	@echo "setup: compiling the libraries, whose SyntaxWarnings would be errors in a test"
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@
	@echo "setup: done"

setup: $(USER)  ## create .venv with what tokenred needs to run

setup-dev: $(DEV)  ## add what tests, checks and docs need

lint: setup-dev  ## ruff: rules and format
	@echo "lint: ruff check, ruff format --check"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup-dev  ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup-dev  ## mypy on tokenred/
	@echo "types: mypy"
	@$(BIN)/mypy

layers: setup-dev  ## import-linter: which layer may import which
	@echo "layers: import-linter"
	@$(BIN)/lint-imports

test: setup-dev  ## all tests; ARGS="tests/unit -k pool" runs some, WORKERS=0 in one process
	@echo "test: pytest $(ARGS)"
	@$(PYTEST) $(ARGS)

test-thorough: setup-dev  ## the same with many more examples and all combinations; before a release
	@echo "test-thorough: pytest --hypothesis-profile=thorough $(ARGS)"
	@$(PYTEST) --hypothesis-profile=thorough $(ARGS)

$(FLOOR)/.installed: floor.txt $(DEV)
	@echo "floor: installing the oldest supported transformers into $(FLOOR)"
	@rm -rf $(FLOOR)
	@$(PIP_INSTALL) --no-deps --target $(FLOOR) -r floor.txt $(SHOW)
	@touch $@

test-floor: $(FLOOR)/.installed  ## tests of models, on the oldest transformers that is supported
	@echo "test-floor: pytest on $$(grep '^transformers' floor.txt)"
	@PYTHONPATH=$(FLOOR) $(PYTEST) $(FLOOR_TESTS)

$(LMMS)/.installed: lmms.txt $(DEV)
	@echo "lmms: installing lmms-eval into $(LMMS)"
	@rm -rf $(LMMS)
	@$(PIP_INSTALL) --no-deps --target $(LMMS) -r lmms.txt $(SHOW)
	@touch $@

test-lmms: $(LMMS)/.installed  ## tests of the model and the suite for lmms-eval, with the real one
	@echo "test-lmms: pytest on $$(grep '^lmms-eval' lmms.txt)"
	@PYTHONPATH=$(LMMS):tests/lmms/shim OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -c tests/lmms/pytest.ini tests/lmms

simulate: setup-dev  ## whether intervals and detectable differences keep their promises; some minutes
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m simulations.paired $(ARGS)

faults: setup-dev  ## seeded faults, each of which a test must catch; ARGS="--only store" runs some
	@PYTHONPATH=tests $(BIN)/python -m faults $(ARGS)

fuzz: setup-dev  ## damaged videos, settings and strategies, each read or refused by a sentence; ARGS="--n 1000 --seed 0 --keep DIR"
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.videos $(ARGS)
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.configs $(ARGS)
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.strategies $(ARGS)

browser:  ## a Chromium for the test of the report page; Debian's is installed where there is none
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		echo "browser: installing Debian's chromium"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	}

conformance: $(FLOOR)/.installed  ## the conformance matrix, on both ends of the supported range
	@PYTHONPATH=$(FLOOR) $(BIN)/tokenred conformance --record docs/reference/conformance.json
	@$(BIN)/tokenred conformance --record docs/reference/conformance.json

docs: setup-dev  ## build the site into site/, its examples run on the way
	@echo "docs: mkdocs build --strict"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "docs: open site/index.html"

docs-serve: setup-dev  ## read the site while writing it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

ablate: setup  ## what each part of AOT is worth: encode, reduce, answer, print the table
	@$(BIN)/tokenred ablate $(ARGS)

$(PEERS)/.installed: benchmarks/speed/peers.txt $(DEV)
	@echo "bench: installing the other solvers into $(PEERS)"
	@rm -rf $(PEERS)
	@$(PIP_INSTALL) --no-deps --target $(PEERS) -r benchmarks/speed/peers.txt $(SHOW)
	@touch $@

bench: $(PEERS)/.installed  ## speed against every peer; ARGS=--quick shows that it runs, ARGS=--full takes longer
	-@$(BIN)/tokenred native build
	@PYTHONPATH=$(PEERS) $(BIN)/python -m benchmarks.speed $(ARGS)

# Each part says what it took; the wall clock and the CPU time are those of all its processes.
ci: setup-dev  ## everything that .ci/run runs
	@for part in $(CI_PARTS); do \
		TIMEFORMAT="ci: $$part took %0R s, %0U + %0S s of CPU (user + system)"; \
		time $(MAKE) --no-print-directory $$part CI=1; \
	done

constraints: setup-dev  ## write the versions now installed to constraints.txt
	@{ grep '^#' constraints.txt; $(PIP) freeze --all --exclude pip --exclude-editable | sed -E 's/\+[a-z0-9.]+$$//' | sort -f; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove what the other targets made, except .venv
	@rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
