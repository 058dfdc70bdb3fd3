# headrace: install, try, test. `make` needs python3 (3.11 or newer) and the package registries as they are set up here.

SHELL := bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check unit bench lock clean

install: .venv/.installed

.venv/.installed: requirements/dev.txt pyproject.toml
	@test -d .venv || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	$(BIN)/headrace demo

# PgBouncer stands between headrace and PostgreSQL in one of the tests; it is Debian's package.
test: install
	@command -v pgbouncer >/dev/null || test -x /usr/sbin/pgbouncer || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null; }
	@$(MAKE) --no-print-directory check unit

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

unit: install
	$(BIN)/python -m pytest --cov=headrace --cov-report=term:skip-covered

bench: install
	$(BIN)/headrace bench

# What is installed is locked by hash; no host of a registry stands in the files.
lock:
	@$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	@mkdir -p requirements
	.venv-lock/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--universal --python-version 3.11 --upgrade --all-extras --group dev pyproject.toml -o requirements/dev.txt
	@rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .pytest_cache .ruff_cache .coverage .hypothesis build dist
