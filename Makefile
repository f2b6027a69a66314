# The commands for development. Each target first sets up what it needs, unless that is up to date.

.DEFAULT_GOAL := help
BIN := .venv/bin
CODE := $(wildcard cook_jupyter scripts tests benchmarks)
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo demo-mesos lab test test-fast test-newest test-oldest test-pythons soak abuse mutants check format lock bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: ## create or update .venv with everything for development
	@scripts/setup.sh dev

demo: ## install everything, execute the demo notebook of binder/ and print its headline
	@scripts/setup.sh demo
	@$(BIN)/python scripts/demo.py

demo-mesos: setup ## execute the same notebook on a real Mesos, which starts and stops with it
	@$(BIN)/python -m scripts.demo --mesos

lab: ## open the demo notebook of binder/ in JupyterLab
	@scripts/setup.sh lab
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) binder/fair_share_demo.ipynb

test: setup ## run all tests
	@$(PYTEST)

test-fast: setup ## run all tests except slow ones and those that need a browser
	@$(PYTEST) -m "not slow and not browser"

test-newest: ## run all tests with the newest versions that pyproject.toml allows (ARGS: for pytest)
	@scripts/test_versions.sh newest $(ARGS)

test-oldest: ## run all tests with the oldest versions that pyproject.toml allows (ARGS: for pytest)
	@scripts/test_versions.sh oldest $(ARGS)

test-pythons: ## run all tests on every installed Python from 3.11 on (ARGS: for pytest)
	@scripts/test_versions.sh pythons $(ARGS)

soak: setup ## simulate the service with injected faults (SEEDS=20000 FIRST=0); a failing seed prints how to replay it
	@$(BIN)/python -m tests.service.simulated $(or $(SEEDS),20000) --first $(or $(FIRST),0)

abuse: setup ## inject faults of every kind beside good jobs, none of which may fail (MINUTES=30 SEED=1)
	@$(BIN)/python -m tests.system.mixed_abuse $(or $(MINUTES),30) --seed $(or $(SEED),1)

mutants: setup ## run mutation tests of model and scheduling (SAMPLE=500 ONLY='ranking/ limits/' RESUME=1 AGAIN=1 PAGE=1)
	@nice -n 10 $(BIN)/python -m tests.mutation $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(RESUME),--resume) $(if $(AGAIN),--again) $(if $(PAGE),--page)

check: setup ## check format, lint, types and import contracts
	@failed=; \
	for tool in "ruff format --check ." "ruff check ." "mypy --strict $(CODE)" "lint-imports --no-logo"; do \
	  echo "== $$tool"; $(BIN)/$$tool || failed="$$failed $${tool%% *}"; \
	done; \
	if [ -n "$$failed" ]; then echo "check: failed:$$failed"; exit 1; fi

format: setup ## apply the fixes of ruff
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## update requirements/*.txt to the newest versions that pyproject.toml allows (KEEP=1: only add what is new)
	@scripts/setup.sh tools .venv-tools
	@.venv-tools/bin/python scripts/lock.py $(if $(KEEP),--keep)

bench: ## run the benchmarks, beside similar tools
	@scripts/setup.sh bench
	@$(BIN)/python scripts/bench.py

clean: ## remove build products and caches, but not virtual environments
	@rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
