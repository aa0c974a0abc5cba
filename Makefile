# `make demo` and `make test` do all set-up: they need python3 (3.11 or newer) and make, nothing else.

PYTHON ?= python3
BIN := .venv/bin

.DELETE_ON_ERROR:
.PHONY: help demo test test-zoo clean

help:
	@echo 'make demo       inspect, convert, verify and time a small network'
	@echo 'make test       ruff, mypy and pytest'
	@echo 'make test-zoo   fold networks of the transformers library, which it installs'
	@echo 'make clean      remove the environment and what the demo wrote'

demo: .venv/demo.stamp
	$(BIN)/bnfold demo --out-dir out

test: .venv/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=auto

test-zoo: .venv/zoo.stamp
	$(BIN)/pytest -m zoo tests/zoo

clean:
	rm -rf .venv out

# The demo runs ONNX and leaves out PyTorch, which is large; the tests need both.
.venv/demo.stamp: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/test.stamp: $(BIN)/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[torch,export,figures,dev]'
	@touch $@

.venv/zoo.stamp: .venv/test.stamp
	$(BIN)/pip install --quiet -c constraints.txt -e '.[zoo]'
	@touch $@

# An environment without pip was interrupted while it was made, or python3 has no ensurepip and says so here.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo 'bnfold needs Python 3.11 or newer; name one with PYTHON=python3.11'; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
