# headrace: install, try, test. It needs python3 (3.11 or newer), and PyPI as pip is set up for it.
# Options of a command: make demo ARGS="--kill --exit"

SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
ARGS ?=

.PHONY: install demo test check unit unit-three-stores coverage bench lock clean

install: .venv/.installed

.venv/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("headrace needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/pip || { echo "making .venv"; $(PYTHON) -m venv --clear .venv; }
	@echo "installing what requirements/dev.txt locks"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	$(BIN)/headrace demo $(ARGS)

# PgBouncer stands between headrace and PostgreSQL in one of the tests, PostgreSQL 15 beside 18 in others, and the published
# TypeScript SDK drives the server in another: Debian's packages, and npm's (which needs Node.js 20 or newer).
APT := apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
# The package would make and start a server of its own, which nobody asked for: while this file is there it makes none.
NO_CLUSTER := /etc/postgresql-common/createcluster.d/headrace-tests.conf

test: install
	@command -v pgbouncer >/dev/null || test -x /usr/sbin/pgbouncer || { $(APT) pgbouncer >/dev/null; } || \
		echo "PgBouncer is not here and can't be installed: the tests that go through it will fail"
	@test -n "$$HEADRACE_TEST_POSTGRES_15" || test -x /usr/lib/postgresql/15/bin/postgres || \
		{ trap 'rm -f $(NO_CLUSTER)' EXIT; mkdir -p $(dir $(NO_CLUSTER)) && echo "create_main_cluster = false" >$(NO_CLUSTER) && \
		$(APT) postgresql-15 >/dev/null; } || \
		echo "PostgreSQL 15 is not here and can't be installed: the tests that use it will fail, unless HEADRACE_TEST_POSTGRES_15 names the folder of its programs"
	@cd tests/compat && npm ci --silent --no-audit --no-fund
	@$(PIP) --require-hashes -r requirements/chart.txt || \
		echo "Helm as a library is not here and can't be installed: the tests that render the chart are left out"
	@$(MAKE) --no-print-directory check unit unit-three-stores

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# Tests wait more than they compute: more processes than cores. A file stays in one process, with its database server.
# And their hundreds of processes share what one of them has compiled, also where the machine's default is to write nothing.
UNIT := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

unit: install
	$(UNIT) --quiet --durations 10

# The engine's tests once more, each on one of three stores of two major versions of PostgreSQL. Those that this would make no
# other test of are left out: see one_store in tests/conftest.py.
unit-three-stores: install
	HEADRACE_TEST_STORES=3 $(UNIT) --quiet --durations 5 tests/engine

coverage: install
	$(UNIT) --quiet --cov=headrace --cov-report=term:skip-covered

bench: install
	$(BIN)/headrace bench $(ARGS)

# What is installed is locked by hash; no host of a registry stands in the files.
lock:
	@$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	@mkdir -p requirements
	.venv-lock/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--universal --python-version 3.11 --upgrade --all-extras --group dev --group examples pyproject.toml -o requirements/dev.txt
	.venv-lock/bin/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--universal --python-version 3.11 --upgrade --constraint requirements/dev.txt requirements/chart.in -o requirements/chart.txt
	@rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .pytest_cache .ruff_cache .coverage .hypothesis build dist
