# SPDX-License-Identifier: Apache-2.0
# Every target sets itself up: nothing is needed but Python (3.11 or newer, with venv) and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo airflow test system fuzz fleet fleet-short chaos chaos-short soak \
	soak-short matrix matrix-short audit lint format types bench docs dist clean dist-check tutorial walks promises \
	screenshots

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make the virtual environment

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): Airflow and the test tools, a minute or two …"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[azure,documents,emulator,redis,s3]' --group test --group lint
	@touch $@

demo: $(READY) ## run the example DAG in a real Airflow against the emulator
	@$(BIN)/python -m dev.demo

airflow: $(READY) ## the same set-up, left running with its UI
	@$(BIN)/python -m dev.demo --keep

# Tests wait for sockets and disks at times: three processes keep two cores busy.
test: $(READY) ## unit and integration tests, nine minutes
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 20 -m 'not alone' tests/integration tests/unit
	@$(BIN)/python -m pytest -m alone $$(grep -rl --include='*.py' mark.alone tests/unit tests/integration)

system: $(READY) ## tests in a real Airflow: scheduler, workers, triggerer, API server; twelve minutes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --durations 20 tests/system

fuzz: $(READY) ## 200,000 hostile responses to everything that reads one, and a million to the checks, half an hour
	@FUZZ_EXAMPLES=9200 FUZZ_CHECKS=50000 $(BIN)/python -m pytest -n 2 --dist worksteal tests/integration/fuzz

fleet: $(VENV)/.fleet ## a distributed Airflow: token sharing under faults, and a catalogue, half an hour
	@$(BIN)/python -m pytest -m fleet tests/system/live/test_live_fleet_stack.py
	@$(BIN)/python -m tests.system.fleet

fleet-short: $(VENV)/.fleet ## the same with fewer tasks, ten minutes
	@$(BIN)/python -m tests.system.fleet --short

chaos: $(VENV)/.fleet ## faults of the service, the network, disks and clocks, kills: what is lost, half an hour
	@$(BIN)/python -m tests.system.chaos

chaos-short: $(VENV)/.fleet ## the most important ones, five minutes
	@$(BIN)/python -m tests.system.chaos --short

soak: $(VENV)/.fleet ## memory, sockets and threads during an hour of steady work
	@$(BIN)/python -m tests.system.chaos.soak

soak-short: $(VENV)/.fleet ## ten minutes of it
	@$(BIN)/python -m tests.system.chaos.soak --minutes 10

audit: $(READY) ## known vulnerabilities of what is installed; needs the internet
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	@$(BIN)/python -m pip_audit --local --skip-editable

matrix: $(READY) ## every supported Airflow and Python, as far as there are interpreters, a quarter of an hour
	@$(BIN)/python -m dev.matrix

matrix-short: $(READY) ## the lowest, one between and the highest, five minutes
	@$(BIN)/python -m dev.matrix --short

lint: $(READY) ## ruff, the import contracts, and the prose of pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m dev.prose

format: $(READY) ## let ruff rewrite
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(READY) ## mypy --strict
	@$(BIN)/mypy

walks: $(READY) ## through how many modules a token, a document and a failing job go
	@$(BIN)/python -m dev.walks

promises: $(READY) ## break each promise of docs/promises.md, and expect its test to fail, ten minutes
	@$(BIN)/python -m dev.promises

tutorial: $(READY) ## follow docs/tutorial.md word by word in an empty folder, two minutes
	@$(BIN)/python -m dev.tutorial

bench: $(VENV)/.bench .venv-databricks/.ready ## the other figures of docs/benchmarks.md
	@$(BIN)/python -m benchmarks.catalogue
	@$(BIN)/python -m benchmarks.catalogue --changes
	@$(BIN)/python -m benchmarks.checks
	@$(BIN)/python -m benchmarks.cold_start
	@$(BIN)/python -m benchmarks.connection_form
	@$(BIN)/python -m benchmarks.corpus all
	@$(BIN)/python -m benchmarks.corpus_results
	@$(BIN)/python -m benchmarks.imports
	@$(BIN)/python -m benchmarks.many_jobs
	@$(BIN)/python -m benchmarks.prediction_table
	@$(BIN)/python -m benchmarks.predictions
	@$(BIN)/python -m benchmarks.rate
	@$(BIN)/python -m benchmarks.rate_emulator
	@$(BIN)/python -m benchmarks.rate_noise
	@$(BIN)/python -m benchmarks.refused
	@$(BIN)/python -m benchmarks.side_by_side
	@$(BIN)/python -m benchmarks.store_latency
	@$(BIN)/python -m benchmarks.store_requests
	@$(BIN)/python -m benchmarks.submissions
	@$(BIN)/python -m benchmarks.tokens
	@$(BIN)/python -m benchmarks.triggers
	@$(BIN)/python -m tests.system.storm

# Its connector refuses versions that the others are measured with.
.venv-databricks/.ready: constraints.txt
	@"$(PYTHON)" -m venv .venv-databricks
	@.venv-databricks/bin/pip install --quiet --disable-pip-version-check apache-airflow-providers-databricks==7.23.0 \
		$$(grep -E '^apache-airflow(-core|-task-sdk|-providers-common-compat)?==' constraints.txt)
	@touch $@

docs: $(VENV)/.docs ## the pages and the reference as a site, in docs/_build
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env docs docs/_build

$(VENV)/.fleet $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: $(READY)
	@echo "Adding what only this needs …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group $*
	@touch $@

screenshots: $(READY) ## the pictures of docs/connection.md again, a minute; needs Chromium
	@SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/system/live/test_live_connection_form.py

dist: $(READY) ## sdist and wheel, checked
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation .
	@$(BIN)/python -m twine check --strict dist/*

dist-check: $(READY) ## install both, with each extra alone, away from the checkout, 90 s
	@$(BIN)/python -m pytest -m dist tests/system/released

clean: ## remove what the targets made
	rm -rf $(VENV) .venv-databricks .azurite .demo dist build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
