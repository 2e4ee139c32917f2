# The two commands: `make run` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
LOCKS := requirements.lock requirements-dev.lock

.PHONY: run test test-faults check sdl docs format lock assets bench

run: .venv/run.stamp assets
	@$(BIN)/python -m server serve

test: .venv/dev.stamp
	@$(BIN)/pytest -n auto $(ARGS)

# Each fault many times, and 5 s long; a quarter of an hour. `make test` has each once.
test-faults: .venv/dev.stamp
	@HYPOTHESIS_PROFILE=nightly $(BIN)/pytest tests/faults $(ARGS)

check: .venv/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/structure tests/docs/test_pages.py \
		tests/data/test_migrations.py::test_migrations_make_what_the_models_say
	@$(BIN)/python -m tests.audit

# After a change of the schema that is meant.
sdl: .venv/run.stamp
	@$(BIN)/python -m server schema > .venv/schema.graphql
	@mv .venv/schema.graphql schema/schema.graphql

# After a change of the settings.
docs: .venv/dev.stamp
	@$(BIN)/python -m tests.docs.settings_table

format: .venv/dev.stamp
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# GraphiQL's files come from npm; without it the page takes them from a CDN.
assets: .venv/run.stamp
	@$(BIN)/python -m server.assets || true

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Engram needs Python 3.11 or newer.") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python requirements.lock
	@echo "Installing what requirements.lock pins into .venv …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/dev.stamp: .venv/bin/python $(LOCKS)
	@echo "Installing what requirements-dev.lock pins into .venv …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@ .venv/run.stamp

# Needs uv. Hashes of every file of a release, so that the locks hold on all platforms.
lock:
	@uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --python-version 3.11 pyproject.toml -o requirements.lock
	@uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --python-version 3.11 --extra tracing -c requirements.lock \
		pyproject.toml -o requirements-tracing.lock
	@uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --python-version 3.11 --extra dev --extra tracing \
		-c requirements-tracing.lock pyproject.toml -o requirements-dev.lock

# About half an hour on a quiet machine; ARGS="run --help" lists what can be chosen.
bench: .venv/dev.stamp
	@$(BIN)/python -m benchmarks $(or $(ARGS),run)
