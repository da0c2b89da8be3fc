# `make help` lists what there is. Every target sets up .venv first, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
POOL ?= cpu
HOST ?= 127.0.0.1
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
ARGS ?=
# The first interpreter that is new enough; PYTHON=/path/to/python chooses another.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
STAMP := $(VENV)/.installed
TOOLS := $(VENV)/.tools

# A stage's `python` is whatever comes first on PATH, so it has to be the environment's own.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export VHCR_MLFLOW_PAGES ?= http://$(HOST):$(MLFLOW_PORT)

.PHONY: help install run test test-slow test-all e2e faults lint format mlflow prefect deploy worker bench table clean clean-all

help:  ## list these commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) \
		| awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv and install the pinned set (the others do this by themselves)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed; found only: $$(python3 --version 2>&1 || echo none)." >&2; \
		echo "Install one (Debian: apt-get install python3 python3-venv), or name it: make run PYTHON=/path/to/python" >&2; \
		exit 2; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1)." >&2; exit 2; }
	@command -v git >/dev/null || { echo "git is needed and was not found." >&2; exit 2; }
	@git rev-parse --git-dir >/dev/null 2>&1 || { mkdir -p .dvc; \
		printf '[core]\n    no_scm = true\n' >>.dvc/config.local; \
		echo "This folder is in no git repository: DVC is told so (core.no_scm in .dvc/config.local)."; \
		echo "Experiments (dvc exp) and vhcr reproduce need one: git init, remove that line, commit."; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments (Debian: apt-get install python3-venv)." >&2; exit 2; }
	@test -x $(VENV)/bin/python || "$(PYTHON)" -m venv $(VENV)
	@if $(VENV)/bin/python -m vhcr.provenance >/dev/null 2>/dev/null; then \
		echo "$(VENV) already holds the pinned set."; \
	else \
		echo "Installing the pinned set into $(VENV) (2.3 GB, about two minutes, the first time only)"; \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
			-c constraints.txt -e '.[pipeline]'; \
	fi
	@touch $@

$(TOOLS): $(STAMP)
	@echo "Installing what tests and checks need into $(VENV) (0.6 GB, once)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,dev,scale]'
	@touch $@

run: $(STAMP)  ## run the whole pipeline (dvc repro), then show its table
	@dvc repro $(ARGS)
	@$(MAKE) table

table: $(STAMP)  ## show the table of every report there is, and where to look further
	@vhcr table

test: $(TOOLS)  ## the quick tests, two minutes on two cores
	@OMP_NUM_THREADS=1 python -m pytest -q -n logical --maxprocesses 8 --dist loadgroup $(ARGS)

test-slow: $(TOOLS)  ## the tests that take longer
	@OMP_NUM_THREADS=1 python -m pytest -q -m 'slow and not e2e' -n logical --maxprocesses 4 --dist loadgroup $(ARGS)

test-all: $(TOOLS)  ## all tests but those that need a browser
	@python -m pytest -q -m 'not e2e' $(ARGS)

e2e: $(TOOLS)  ## the tests that drive a headless Chromium
	@python -m pytest -q -m e2e $(ARGS)

faults: $(TOOLS)  ## a seeded search for faults, three minutes; ARGS="--seed 1 --minutes 120" for more
	@OMP_NUM_THREADS=1 python -m tests.faults $(ARGS)

lint: $(TOOLS)  ## ruff, formatting and strict types
	@ruff check .
	@ruff format --check .
	@mypy

format: $(TOOLS)  ## let ruff repair and format
	@ruff check --fix .
	@ruff format .

mlflow: $(STAMP)  ## MLflow's pages on http://127.0.0.1:5000
	@case "$${MLFLOW_TRACKING_URI:-}" in http*) \
		echo "MLFLOW_TRACKING_URI names a server, whose pages are there: $$MLFLOW_TRACKING_URI" >&2; \
		echo "For the pages of this project's own database: env -u MLFLOW_TRACKING_URI make mlflow" >&2; exit 2;; esac
	@vhcr create-database
	@echo "MLflow: http://$(HOST):$(MLFLOW_PORT)/#/experiments (Ctrl-C ends it)"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host $(HOST) --port $(MLFLOW_PORT) --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

prefect: $(STAMP)  ## Prefect's server and pages on http://127.0.0.1:4200
	@echo "Prefect: http://$(HOST):$(PREFECT_PORT) (Ctrl-C ends it); in two other terminals: make deploy, make worker"
	@prefect server start --host $(HOST) --port $(PREFECT_PORT)

deploy: export PREFECT_API_URL ?= http://$(HOST):$(PREFECT_PORT)/api
deploy: $(STAMP)  ## show the flows of flows/prefect.yaml in Prefect's pages
	@python -m flows.deploy

worker: export PREFECT_API_URL ?= http://$(HOST):$(PREFECT_PORT)/api
worker: $(STAMP)  ## a Prefect worker that takes runs from POOL (cpu or gpu)
	@python -m flows.deploy --pool $(POOL)
	@prefect worker start --type process --pool $(POOL)

bench: $(TOOLS)  ## measure speed and memory; prints a table, writes JSON
	@python -m benchmarks $(ARGS)

clean:  ## remove what the pipeline made in the workspace (DVC's cache can bring it back)
	@rm -rf data/raw data/tokenised data/validated data/embeddings data/trained data/evaluated reports .work

clean-all: clean  ## also DVC's cache, MLflow's and Prefect's records, .venv and tool caches
	@rm -rf .dvc/cache .dvc/tmp mlflow.db* mlartifacts mlruns .prefect $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
