# `make` alone shows what there is. PYTHON=python uses the environment that is active instead of .venv.

VENV := .venv
ROOTS := topics outbox activities coordinator migrations
API := segue.contract segue.saga segue.activities segue.client segue.outbox segue.testing segue.topics segue.errors segue.limits
PROGRAMS := tests examples benchmarks
# mypy refuses a folder without Python in it.
TYPED = $(foreach folder,$(ROOTS) $(PROGRAMS),$(if $(shell find $(folder) -name '*.py' -print -quit 2>/dev/null),$(folder)))
DEMO := -m examples.orders.demo
ARGS ?=

ifdef PYTHON
  # Somebody else's environment: nothing is installed into it.
  BASE :=
  DEV :=
else
  PYTHON := $(VENV)/bin/python
  BASE := $(VENV)/.base
  DEV := $(VENV)/.dev
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint ruff layout layers mypy basedpyright format api docs bench simulate mutants chaos kafka postgres up down clean

help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ARGS='…' is passed on: make test ARGS='-k outbox', make demo ARGS=--help"
	@echo "  PYTHON=python uses the active environment instead of $(VENV)"

demo: $(if $(REAL),$(DEV),$(BASE)) ## thousands of orders across four services; REAL=1 on Kafka and PostgreSQL
ifdef REAL
	$(PYTHON) -m tests.real.run sh -c 'exec $(PYTHON) $(DEMO) --bootstrap "$$SEGUE_TEST_KAFKA" --database-server "$$SEGUE_TEST_POSTGRES" $(ARGS)'
else
	$(PYTHON) $(DEMO) $(ARGS)
endif

test: $(DEV) ## the whole suite, with real Kafka and PostgreSQL where this machine can run them
	$(PYTHON) -m tests.real.run $(PYTHON) -m pytest -n auto $(ARGS)

lint: ruff layout layers mypy basedpyright ## every gate that needs no test run; `make -k lint` goes on after the first that fails

ruff: $(DEV)
	$(PYTHON) -m ruff check .

layout: $(DEV)
	$(PYTHON) -m ruff format --check .

layers: $(DEV)
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command as lint; lint()'

mypy: $(DEV)
	$(PYTHON) -m mypy $(TYPED)

basedpyright: $(DEV)
	$(PYTHON) -m basedpyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

format: $(DEV) ## lay out the source, sort the imports
	$(PYTHON) -m ruff check --fix-only .
	$(PYTHON) -m ruff format .

api: $(DEV) ## record the public API, after a change of it that is wanted
	$(PYTHON) -m tests.unit.public_api

docs: $(DEV) ## write the reference of the Python API to build/docs, from the docstrings
	$(PYTHON) -m pdoc --no-show-source --docformat markdown --output-directory build/docs $(API)

bench: $(DEV) ## measure; QUICK=1 within 3 minutes; figures and how they were taken are in docs/performance.md
	$(PYTHON) -m benchmarks $(if $(QUICK),--quick) $(ARGS)

simulate: $(DEV) ## the whole system from a fresh seed, with every fault there is: SECONDS=60 JOBS=2
	$(PYTHON) -m tests.simulation.run --seconds $(or $(SECONDS),60) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

mutants: $(DEV) ## break each rule once, and see that the simulation sees it: JOBS=2
	$(PYTHON) -m tests.simulation.mutants $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

chaos: $(DEV) ## faults on real Kafka and PostgreSQL, and the judgement; as root, for a small disk: MINUTES=3
	$(PYTHON) -m tests.chaos --minutes $(or $(MINUTES),3) $(ARGS)

kafka: $(DEV) ## start Apache Kafka without docker (Java 17 and Maven), print its address
	$(PYTHON) -m tests.real.kafka start

postgres: $(DEV) ## start PostgreSQL without docker, print its URL
	$(PYTHON) -m tests.real.postgres start

up: ## Kafka, PostgreSQL, coordinator and the example's services in docker
	docker compose up --build --detach
	docker compose ps

down: ## stop what `up`, `kafka` and `postgres` started
	@if [ -d .real ] && [ -e "$$(command -v $(PYTHON))" ]; then \
	  $(PYTHON) -m tests.real.kafka stop; $(PYTHON) -m tests.real.postgres stop; fi
	@if command -v docker >/dev/null; then docker compose down; fi

clean: down ## remove everything that can be made again, data of local servers included
	rm -rf $(VENV) .real .segue build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(ROOTS) $(PROGRAMS) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec $$python -m venv $(VENV); fi; done; \
	echo "Segue needs Python 3.11 or newer, and none is on the path." >&2; exit 1

# Dependency groups need pip 25.1.
$(VENV)/.base: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(VENV)/bin/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@
