# `make` alone prints what there is. Everything slow says how far it is.

PYTHON ?= python3
ENVIRONMENT := $(PYTHON) -m devstack.environments
BIN := .venv/bin
# Two cores carry four processes: the tests wait often. Six make MLflow, which all share, too slow.
JOBS ?= 4
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install run test test-aws bench drill pages docs check format lock clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: ## make .venv from the lock file
	@$(ENVIRONMENT) development

run: ## start Redis, MLflow, the auth service and the proxy; Ctrl-C ends all
	@$(ENVIRONMENT) development mlflow-server
	@exec $(BIN)/python -m devstack $(ARGS)

# The tests' modules, rewritten by pytest, are kept for the next run.
test: export PYTHONDONTWRITEBYTECODE :=
test: ## run the whole suite; a part of it: make test ARGS="-k health"; in one process: JOBS=0
	@$(ENVIRONMENT) development mlflow-server
	$(BIN)/python -m pytest -n $(JOBS) --durations=40 --durations-min=1 $(ARGS)

test-aws: ## apply the Terraform module against a stand-in for AWS, two minutes
	@$(ENVIRONMENT) development aws
	TEST_AWS=1 REQUIRE_TERRAFORM=1 $(BIN)/python -m pytest tests/infrastructure/test_moto.py $(ARGS)

bench: ## measure it beside its peers, 15 minutes; a part, roughly: ARGS="--only b --quick"
	@$(ENVIRONMENT) development
	@exec $(BIN)/python -m benchmarks $(ARGS)

drill: ## break real parts under load, about 15 minutes, with a table; some: make drill ARGS="outage"
	@$(ENVIRONMENT) development mlflow-server
	@exec $(BIN)/python -m tests.drills $(ARGS)

pages: ## generate docs/configuration.md and nginx.conf
	@$(ENVIRONMENT) development
	$(BIN)/python -m config > docs/configuration.md
	$(BIN)/python -m infrastructure.nginx.configuration > infrastructure/nginx/nginx.conf

docs: ## build the documentation as a site, into site/, and check its links
	@$(ENVIRONMENT) development docs
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict $(ARGS)
	@echo "Open site/index.html"

check: install ## format, lint and types, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## put the code into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install ## resolve the requirements again; newest versions: make lock ARGS=--upgrade
	cd requirements && ../$(UV_COMPILE) -o installer.lock installer.in
	cd requirements && ../$(UV_COMPILE) -o production.lock production.in
	cd requirements && ../$(UV_COMPILE) -c production.lock -o telemetry.lock telemetry.in
	cd requirements && ../$(UV_COMPILE) -c production.lock -c telemetry.lock -o development.lock development.in
	cd requirements && ../$(UV_COMPILE) -o mlflow-server.lock mlflow-server.in
	cd requirements && ../$(UV_COMPILE) -o bench.lock bench.in
	cd requirements && ../$(UV_COMPILE) -o docs.lock docs.in
	cd requirements && ../$(UV_COMPILE) -c mlflow-server.lock -o bench-basic-auth.lock bench-basic-auth.in
	cd requirements && ../$(UV_COMPILE) -c mlflow-server.lock -o mlflow-image.lock mlflow-image.in
	cd requirements && ../$(UV_COMPILE) -o aws.lock aws.in
	cd requirements && ../$(UV_COMPILE) -o fronts.lock fronts.in
	cd requirements && for client in client-*.in; do \
		../$(UV_COMPILE) -o $${client%.in}.lock $$client || exit 1; done

clean: ## remove the environments, caches and everything `make run` kept
	rm -rf .venv .venv-mlflow .venv-mlflow-basic-auth .venv-clients .venv-bench .venv-docs .venv-aws .venv-fronts site .devstack .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
