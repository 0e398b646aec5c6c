# KubeGym. `make help` lists the verbs; a fresh machine needs make and Python 3.11 or later.
#
#   KUBEGYM_PYTHON=python3.12 make install    choose the interpreter that .venv is made from
#   make run ARGS="--fresh"                   ARGS is handed to what the verb starts

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test lint bench cluster cluster-down clean

help: ## List the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r verb text; do printf '  %-14s %s\n' "$$verb" "$$text"; done

install: $(STAMP) ## Make .venv with everything a developer needs
	@echo 'Ready: .venv/bin/kubegym'

run: $(STAMP) ## Collect rollouts of the arithmetic environment with the embedded model
	@exec $(BIN)/kubegym run environments/arithmetic $(ARGS)

test: $(STAMP) ## Lint, then all tests: unit, contract, escape, chaos, scale, cluster, node (ARGS="unit" for one tier)
	@exec $(BIN)/python tests/run $(ARGS)

lint: $(STAMP) ## ruff, mypy and the import contracts
	@exec $(BIN)/python tests/run lint

bench: $(STAMP) ## Measure speed and memory and print the table (minutes)
	@exec $(BIN)/python -m benchmarks $(ARGS)

cluster: $(STAMP) ## A kind cluster with KubeGym, S3 and a namespace ready; the last line is its kubeconfig
	@PYTHONPATH=tests exec $(BIN)/python -m testbed.kind up $(ARGS)

cluster-down: $(STAMP) ## Remove it, and what it changed on this machine
	@PYTHONPATH=tests exec $(BIN)/python -m testbed.kind down $(ARGS)

clean: ## Remove .venv, caches and build output; collected runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Rebuilt only when the requirements change: the sources are installed in place.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  python=; \
	  for candidate in "$${KUBEGYM_PYTHON:-python3}" $${KUBEGYM_PYTHON:+none} python3.13 python3.12 python3.11; do \
	    [ "$$candidate" != none ] || break; \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "KubeGym needs Python 3.11 or later; $${KUBEGYM_PYTHON:-python3} is none. Set KUBEGYM_PYTHON to one." >&2; exit 1; \
	  fi; \
	  "$$python" -m venv --clear $(VENV) || { echo "$$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }; \
	fi; \
	echo "Installing KubeGym and its development tools into $(VENV) ($$($(BIN)/python --version))"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	touch $@
