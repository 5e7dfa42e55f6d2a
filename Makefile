# make demo | demo-chat | demo-machines | check | test | wheel | gpu | clean
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_PACKAGES := privfed/data/requirements-demo.txt

.PHONY: demo demo-chat demo-machines check test wheel gpu lint clean

demo: $(VENV)/.demo
	$(BIN)/privfed demo

demo-chat: $(VENV)/.demo
	$(BIN)/privfed demo --chat

# A hub and three organisations as processes of their own, over TLS on 127.0.0.1.
demo-machines: $(VENV)/.flower $(VENV)/.demo
	$(BIN)/privfed demo --machines

test: $(VENV)/.test $(VENV)/.demo lint
	$(BIN)/pytest --numprocesses auto --dist worksteal

# Lint, types, imports and the tests of the files that were changed.
check: $(VENV)/.test lint
	$(BIN)/pytest --numprocesses auto --quiet $$($(BIN)/python tests/touched.py)

# The wheel in bare environments, with the lowest and the newest versions that pyproject.toml allows.
# make wheel TORCH=2.13.0 PYTHONS="python3.11 python3.12" WITHOUT_TORCH=python3.13
wheel: $(VENV)/.test
	$(BIN)/python tests/installed/environments.py $(or $(PYTHONS),$(PYTHON)) \
	    $(addprefix --torch ,$(TORCH)) $(addprefix --without-torch ,$(WITHOUT_TORCH))

# Needs CUDA: the tests marked gpu and the GPU benchmarks, within ten minutes.
gpu: $(VENV)/.test $(VENV)/.demo
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/training.py --quick --device cuda
	$(BIN)/python benchmarks/simulation.py --quick --device cuda

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.demo: $(VENV)/.base $(DEMO_PACKAGES)
	$(PIP) install --quiet --no-deps --requirement $(DEMO_PACKAGES)
	touch $@

$(VENV)/.flower: $(VENV)/.base
	$(PIP) install --quiet --constraint constraints.txt --editable '.[flower]'
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
