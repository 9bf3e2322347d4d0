# Everything a developer runs. Needs only Python 3.11 or newer and make.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test check bench soak lock $(VENV)

help: ## this list
	@grep -hE '^[a-z.$$()A-Z]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/^\$$(VENV)/.venv/' -e 's/:.*## /	/' | while IFS='	' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

$(VENV): $(READY) ## the virtual environment, from hashed pins

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ScaiKey needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "This Python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## start everything and play the main job; Ctrl-C stops it
	$(BIN)/python -m demo

test: $(READY) ## the everyday suite
	$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## ruff, mypy, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## side-by-side benchmarks
	$(BIN)/python -m bench

soak: $(READY) ## random kills and restarts at full count
	$(BIN)/python -m pytest -m soak --timeout 0 -s $(ARGS)

lock: $(READY) ## pin every dependency with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock
