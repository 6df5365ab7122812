# make bench | test | bench-full: each does its own set-up, in .venv, on a machine with Python 3.11+ and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The CuPy that fits the NVIDIA driver, none without one. Tests on Linux x86-64 install it even so: its compiler needs no GPU.
CUDA := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p')
ifneq ($(CUDA),)
GPU_EXTRA := $(if $(filter 12,$(CUDA)),cuda12,cuda13)
endif
ifeq ($(shell uname -sm),Linux x86_64)
TEST_GPU_EXTRA := $(or $(GPU_EXTRA),cuda13)
endif

comma := ,
extras = $(subst $() ,$(comma),$(strip $(1)))

.PHONY: bench bench-full test lint types clean

bench: $(VENV)/.bench
	$(BIN)/python -m backprop_xp bench

bench-full: $(VENV)/.full
	$(BIN)/python -m backprop_xp bench --full --json bench/results/full.json --plot bench/results/full.png

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/.dev
	$(BIN)/python -m mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("backprop_xp needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[$(call extras,bench $(GPU_EXTRA))]'
	touch $@

$(VENV)/.full: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[$(call extras,bench jax $(GPU_EXTRA))]'
	touch $@ $(VENV)/.bench

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[$(call extras,dev $(TEST_GPU_EXTRA))]'
	touch $@ $(VENV)/.bench

clean:
	rm -rf $(VENV) build dist *.egg-info
