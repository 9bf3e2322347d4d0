# Everything a developer runs. Needs only Python 3.11 or newer and make.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARTIES := .parties

.PHONY: help demo test long check bench soak lock parties $(VENV)

help: ## this list
	@grep -hE '^[a-z.$$()A-Z]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/^\$$(VENV)/.venv/' -e 's/:.*## /	/' | while IFS='	' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

$(VENV): $(READY) ## the virtual environment, from hashed pins

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ScaiKey needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "This Python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## start everything and play the main job; Ctrl-C stops it (AD=live: against a live Active Directory)
	AD=$(AD) $(BIN)/python -m demo

test: $(READY) ## the everyday suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

long: $(READY) ## what takes minutes: live directories, browsers, kills, faults
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "long and not soak" $(ARGS)

check: $(READY) ## ruff, mypy, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## side-by-side benchmarks
	$(BIN)/python -m bench

soak: $(READY) ## random kills and restarts at full count
	$(BIN)/python -m pytest -m soak --timeout 0 -s $(ARGS)

parties: $(PARTIES)/.ready ## other people's programs that tests sign in with and provision

$(PARTIES)/.ready: tests/parties/package.json tests/parties/requirements.txt tests/parties/published.py
	@for program in node npm chromium; do command -v $$program >/dev/null || { echo "$$program is missing; on Debian: apt install nodejs npm chromium (Node 20 or newer)" >&2; exit 1; }; done
	mkdir -p $(PARTIES)
	cp tests/parties/package.json $(PARTIES)/package.json
	npm install --prefix $(PARTIES) --no-package-lock --no-audit --no-fund --ignore-scripts --silent
	ln -sfn ../../$(PARTIES)/node_modules tests/parties/node_modules
	test -x $(PARTIES)/venv/bin/python || $(PYTHON) -m venv $(PARTIES)/venv
	$(PARTIES)/venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/parties/requirements.txt
	@$(PYTHON) tests/parties/published.py $(PARTIES)/published || echo "Published requests could not be fetched: their tests will say so" >&2
	@touch $@

lock: $(READY) ## pin every dependency with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock
