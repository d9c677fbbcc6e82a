# One way to run things. Every target makes its own virtual environment from nothing.
#
#   make test PYTHON=python3.13 VENV=.venv-3.13     another Python
#   make test ARGS='tests/stream -k water'          more arguments for the program that is run

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q
TYPED := trio_tsconnect benchmarks conftest.py tests/conftest.py tests/test_house.py $(wildcard examples docs/*.py)

.PHONY: demo test check bench docs fuzz soak mutants pictures clean programs

demo: $(VENV)/.test
	$(BIN)/python -m trio_tsconnect demo $(ARGS)

test: $(VENV)/.test
	$(PYTEST) -n auto $(ARGS)

check: $(VENV)/.check programs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(TYPED)
	PATH="$(abspath $(BIN)):$$PATH" basedpyright --verifytypes trio_tsconnect --ignoreexternal
	$(PYTEST) -n auto $(ARGS)

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks $(ARGS)

# Write what is generated from the code, run every block of every document, and build the manual as a site: build/site/index.html.
docs: $(VENV)/.check
	$(BIN)/python docs/build.py
	$(PYTEST) README.md CONTRIBUTING.md docs
	$(BIN)/python docs/site.py

# The property tests again: ten thousand examples each, other ones every time.
fuzz: $(VENV)/.test
	HYPOTHESIS_PROFILE=long $(PYTEST) -n auto --dist load -o faulthandler_timeout=0 -m 'hypothesis or long' $(ARGS)

# Ten minutes of mixed load: memory, tasks and descriptors must not grow. Shorter: make soak ARGS='--seconds 60'.
soak: $(VENV)/.test
	$(BIN)/python -m benchmarks._soak $(ARGS)

# Pictures of the manual, after `make docs`, and of a report of a log: build/pictures. Needs Chromium.
pictures: $(VENV)/.check
	$(BIN)/python docs/pictures.py

# Break the code one line at a time: do the tests notice? About 15 minutes for 100 changes; others: make mutants ARGS='--seed 2'.
mutants: $(VENV)/.test
	$(BIN)/python -m benchmarks._mutants $(ARGS)

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The programs that some tests drive. Where they cannot be installed, those tests are left out, and the run says so.
programs:
	@.ci/programs

$(VENV)/.pip:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later with venv and pip was found: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	touch $@

$(VENV)/.test $(VENV)/.check: $(VENV)/.%: pyproject.toml | $(VENV)/.pip
	$(BIN)/python -m pip install --quiet --editable '.[server,h2,httpx,httpx2,logs,decode,redis,otel,testing,fast]' --group $*
	touch $@
