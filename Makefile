# What a developer types. Each target sets up what it needs first; a set-up that is up to date takes no time.

.DEFAULT_GOAL := help
BIN := .venv/bin
CODE := $(wildcard cook_jupyter scripts tests benchmarks)

.PHONY: help setup demo lab test test-fast test-newest test-oldest test-pythons soak abuse check format lock bench clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: ## everything a developer needs, in .venv
	@scripts/setup.sh dev

demo: ## execute the notebook of binder/ from nothing and print its headline
	@scripts/setup.sh demo
	@$(BIN)/python scripts/demo.py

lab: ## open the notebook of binder/ in JupyterLab
	@scripts/setup.sh lab
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) binder/fair_share_demo.ipynb

test: setup ## all tests
	@$(BIN)/python -m pytest

test-fast: setup ## the tests of the inner loop: no browser, nothing slow
	@$(BIN)/python -m pytest -m "not slow and not browser"

test-newest: ## all tests with the newest versions that pyproject.toml allows (ARGS: for pytest)
	@scripts/test_versions.sh newest $(ARGS)

test-oldest: ## all tests with the lowest versions that pyproject.toml allows (ARGS: for pytest)
	@scripts/test_versions.sh oldest $(ARGS)

test-pythons: ## all tests on each Python from 3.11 on that is installed (ARGS: for pytest)
	@scripts/test_versions.sh pythons $(ARGS)

soak: setup ## simulate the service with all that can go wrong (SEEDS=20000 FIRST=0); a seed that fails says how to replay it
	@$(BIN)/python -m tests.service.simulated $(or $(SEEDS),20000) --first $(or $(FIRST),0)

abuse: setup ## faults of every kind in random order beside good jobs, of which none may fail (MINUTES=30 SEED=1)
	@$(BIN)/python -m tests.system.mixed_abuse $(or $(MINUTES),30) --seed $(or $(SEED),1)

check: setup ## format, lint, types, import contracts
	@failed=; \
	for tool in "ruff format --check ." "ruff check ." "mypy --strict $(CODE)" "lint-imports --no-logo"; do \
	  echo "== $$tool"; $(BIN)/$$tool || failed="$$failed $${tool%% *}"; \
	done; \
	if [ -n "$$failed" ]; then echo "check: failed:$$failed"; exit 1; fi

format: setup ## let ruff put right what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## renew requirements/*.txt: the newest versions that pyproject.toml allows (with KEEP=1: only what it asks for anew)
	@scripts/setup.sh tools .venv-tools
	@.venv-tools/bin/python scripts/lock.py $(if $(KEEP),--keep)

bench: ## measure, beside the peers
	@scripts/setup.sh bench
	@$(BIN)/python scripts/bench.py

clean: ## forget what was built; virtual environments stay
	@rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
