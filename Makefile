# Everything is run through here; the list that `make help` prints is read from the `##` comments.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo results train test check docs soak fuzz strangers startup growth audit lock clean tensorboard venv

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv from requirements.lock (every target below does so itself)

demo: $(STAMP) ## train three networks on built-in images and compare them: minutes, no data needed
	$(BIN)/python train.py -m experiment=demo model=alexnet,googlenet,resnet50 log_dir=logs/demo
	$(BIN)/python evaluate.py run=logs/demo cost_seconds=1
	$(BIN)/python compare.py runs=logs/demo

results: $(STAMP) ## measure what this machine can do and write the tables; in so much time: make results MINUTES=120
	$(BIN)/triptych results $(if $(MINUTES),minutes=$(MINUTES)) $(ARGS)

train: $(STAMP) ## train one network: make train ARGS="model=resnet50 seed=1"
	$(BIN)/python train.py $(ARGS)

test: $(STAMP) ## run the tests; some of them: make test ARGS="-k cifar"
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(STAMP) docs ## hold format, lint, types, the budgets of size, the links of docs/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_budgets.py

docs: $(STAMP) ## build the site of docs/ into docs/_build/html; a broken link fails
	$(BIN)/python -m sphinx -E -a -W --keep-going -n -q docs docs/_build/html
	! grep -rE --include='*.html' '<(link|script|img)[^>]+(href|src)="(https?:)?//' docs/_build/html

soak: $(STAMP) ## kill a sweep 50 times at random and check that nothing is lost (up to 20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.trials.soak $(ARGS)

fuzz: $(STAMP) ## 2,000 random command lines: composed, or an error of three lines; 100 more as processes
	$(BIN)/python -m tests.trials.fuzz $(ARGS)

strangers: $(STAMP) ## give 300 mutated run folders to the commands that read one (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.trials.folders $(ARGS)

startup: $(STAMP) ## time refusals beside an empty Hydra program, a first step beside its imports (2 minutes)
	$(BIN)/python -m tests.trials.startup $(ARGS)

growth: $(STAMP) ## show time and memory at 1 to 8 times the work; memory, files, threads of 60 epochs (12 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.trials.growth $(ARGS)

audit: $(STAMP) ## look the locked packages up among known vulnerabilities
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes

lock: ## write requirements.lock anew from pyproject.toml; newest versions: make lock ARGS=--upgrade
	@test -x $(BIN)/uv || $(MAKE) setup
	$(BIN)/uv pip compile pyproject.toml --extra onnx --extra openvino --extra safetensors --extra tune --extra lite --group dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --output-file requirements.lock --quiet $(ARGS)

# A variable as the commands read it: from the environment, else from .env, else a default.
variable = $(BIN)/python -c 'import os; from dotenv import dotenv_values as values; \
	print(os.path.expanduser(os.environ.get("$(1)") or values(".env").get("$(1)") or "$(2)"))'

tensorboard: $(STAMP) ## show the runs under LOG_DIR (logs/), on this machine only; other ones: ARGS=runs=logs/demo
	$(BIN)/triptych runs tensorboard=6006 $(ARGS)

clean: ## remove caches, build products, features of probes; logs/, other data, .env and .venv stay
	-@test ! -x $(BIN)/python || { data="$$($(call variable,DATA_DIR,data))" && rm -rf "$$data/.features"; }
	rm -rf build dist docs/_build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last and holds the folder it stands in. So a .venv that is half-made, was moved
# or has lost its interpreter is made from nothing; an edited lock or pyproject is installed on top.
ifneq ($(shell test -x $(BIN)/python && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): venv
endif

venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Triptych needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Name another one: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu this helps:" >&2; \
		$(PYTHON) -c 'import sys; print("sudo apt install python%d.%d-venv" % sys.version_info[:2])' >&2; exit 2; }
	@echo "Setting up .venv: the first time, this downloads about 3.2 GB on Linux, 0.3 GB on macOS."
	@$(PYTHON) -m venv --clear .venv

# uv does not read pip's settings, so it is handed the index that pip has just used.
$(STAMP): requirements.lock pyproject.toml
	@rm -f $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@index="$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-build-isolation --no-deps --editable .
	@echo "$(CURDIR)" > $(STAMP)
