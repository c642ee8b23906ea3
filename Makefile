# Requires Python 3.11 or newer, make, and a package registry; everything else is installed into .venv.
#
#   make demo    run the whole pipeline, with nothing to configure
#   make test    run all tests        make lint    check style, types and layers
#   make bench   run the benchmarks   make soak    compare random histories with kills with the API
#   make soak-engines  kill processes of commands that several share, and compare with the API
#   make verify  check the completeness rule against every way small listings can change
#   make docs    build the site of the documentation, in build/docs
#   make dbt     run dbt on the sources that `cortex-etl dbt` writes

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lint lowest format generated docs bench bench-peer soak soak-engines verify dbt picture wheel clean
.DELETE_ON_ERROR:

VENV   := .venv
PYTHON := $(VENV)/bin/python
PIP    := $(PYTHON) -m pip --disable-pip-version-check install -qq --no-input
# Arguments for the program behind a target: make bench ARGS=--quick
ARGS   ?=

help:
	@sed -n 's/^#   //p' Makefile

# Use the newest Python that can create a virtual environment; `make PYTHON3=/path/to/python demo` selects another.
$(VENV)/made:
	@for each in $(PYTHON3) python3.14 python3.13 python3.12 python3.11 python3 python; do \
	  if $$each -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Setting up $(VENV) with $$($$each --version) (once)"; \
	    $(PYTHON) -c '' >/dev/null 2>&1 || $$each -m venv --clear $(VENV) || exit 1; \
	    touch $@; exit 0; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with the modules venv and ensurepip found." >&2; \
	echo "  hint: Install one (Debian, Ubuntu: apt install python3 python3-venv), or run make PYTHON3=/path/to/python." >&2; \
	exit 1

$(VENV)/installed: $(VENV)/made pyproject.toml
	@$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/made pyproject.toml
	@$(PIP) 'pip>=25.1'  # knows dependency groups
	@$(PIP) --editable '.[report,parquet,mcp,otel,dask]' --group dev
	@touch $@ $(VENV)/installed

demo: $(VENV)/installed
	@$(VENV)/bin/cortex-etl demo $(ARGS)

test: $(VENV)/installed-dev
	@$(PYTHON) -m pytest -q -n auto --dist worksteal $(ARGS)

# What the tests run in their own process; commands that they start are not measured.
coverage: $(VENV)/installed-dev
	@$(PYTHON) -m pytest -q -n auto --dist worksteal --cov --cov-report=term:skip-covered tests/unit tests/integration tests/faults $(ARGS)

lint: $(VENV)/installed-dev
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(VENV)/bin/codespell
	@$(VENV)/bin/lint-imports --no-cache

# The demo and the tests of the promises with the lowest versions that pyproject.toml allows.
lowest: $(VENV)/installed-dev
	@$(VENV)/bin/uv venv -q --clear --python $(PYTHON) $(VENV)-lowest
	@VIRTUAL_ENV=$(VENV)-lowest $(VENV)/bin/uv pip install -q --resolution lowest-direct --editable '.[report,parquet,mcp,otel,dask]'
	@VIRTUAL_ENV=$(VENV)-lowest $(VENV)/bin/uv pip install -q --group dev
	@$(VENV)-lowest/bin/cortex-etl demo --quiet
	@$(VENV)-lowest/bin/python -m pytest -q -n auto tests/unit tests/acceptance/test_promises.py

format: $(VENV)/installed-dev
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

# The tools of the site have an environment of their own. Warnings, such as those of broken links, are errors, but not with --quiet.
$(VENV)-docs/installed: $(VENV)/installed-dev
	@$(VENV)/bin/uv venv -q --clear --python $(PYTHON) $(VENV)-docs
	@VIRTUAL_ENV=$(VENV)-docs $(VENV)/bin/uv pip install -q --group docs
	@touch $@

generated: $(VENV)/installed-dev
	@$(PYTHON) -m etl.dictionary > docs/warehouse.new && mv docs/warehouse.new docs/warehouse.md
	@$(PYTHON) -m etl.config.schema > docs/config.new && mv docs/config.new docs/config.schema.json
	@$(PYTHON) -m etl.cli.reference > docs/commands.new && mv docs/commands.new docs/commands.md
	@$(PYTHON) docs/structure.py

docs: $(VENV)-docs/installed
	@NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build
	@echo "Open build/docs/index.html"

# dlt, for comparison, has its own environment: run make bench-peer once.
bench: $(VENV)/installed-dev
	@CORTEX_BENCH_DLT_PYTHON=$(firstword $(wildcard $(VENV)-peer/bin/python) $(PYTHON)) $(PYTHON) -m benchmarks $(ARGS)

bench-peer: $(VENV)/made
	@$(PYTHON) -m venv $(VENV)-peer
	@$(VENV)-peer/bin/python -m pip --disable-pip-version-check install -qq --no-input 'pip>=25.1'
	@$(VENV)-peer/bin/python -m pip --disable-pip-version-check install -qq --no-input . --group peer

soak: $(VENV)/installed-dev
	@$(PYTHON) -m tests.faults.soak $(ARGS)

soak-engines: $(VENV)/installed-dev
	@PYTHONPATH=tests/support $(PYTHON) -m tests.faults.engine_soak $(ARGS)

verify: $(VENV)/installed-dev
	@$(PYTHON) tests/support/moving_listings.py $(ARGS)

# dbt has its own environment, because it needs many packages in old versions.
$(VENV)-dbt/installed: $(VENV)/made pyproject.toml
	@$(PYTHON) -m venv --clear $(VENV)-dbt
	@$(VENV)-dbt/bin/python -m pip --disable-pip-version-check install -qq --no-input 'pip>=25.1'
	@$(VENV)-dbt/bin/python -m pip --disable-pip-version-check install -qq --no-input --group dbt
	@touch $@

dbt: $(VENV)/installed-dev $(VENV)-dbt/installed
	@$(PYTHON) -m pytest -q tests/acceptance/test_cli_dbt.py $(ARGS)

# docs/report.png and docs/report-dark.png, from the demo's data. Needs Chromium and a font with emojis.
picture: $(VENV)/installed-dev
	@$(VENV)/bin/cortex-etl demo --quiet >/dev/null
	@$(VENV)/bin/cortex-etl report --demo --output $(VENV)/report.html
	@$(PYTHON) docs/report_picture.py $(VENV)/report.html

wheel: $(VENV)/installed-dev
	@$(PYTHON) -m build --wheel

clean:
	@test ! -x $(VENV)/bin/cortex-etl || $(VENV)/bin/cortex-etl stop --quiet
	rm -rf $(VENV) $(VENV)-peer $(VENV)-lowest $(VENV)-docs $(VENV)-dbt build dist .cortex-etl .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
