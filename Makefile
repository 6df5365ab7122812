# make bench | test | coverage | lowest | ranks | bench-ranks | wheel | lint | types | docs | bench-full | gpu: each does its own set-up, in .venv,
# on a machine with Python 3.11+ and make.

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

MPIEXEC ?= $(BIN)/mpiexec

comma := ,
extras = $(subst $() ,$(comma),$(strip $(1)))

.PHONY: bench bench-full bench-ranks gpu present test coverage lowest ranks wheel lint types docs clean

bench: $(VENV)/.bench
	$(BIN)/python -m backprop_xp bench

# To $(RESULTS)/<processor>.json and .md, and pictures beside them: another kind of processor replaces nothing.
bench-full: $(VENV)/.full
	$(BIN)/python -m backprop_xp bench --full --results $(RESULTS)

# Ranks of this machine, one thread each, beside PyTorch's DistributedDataParallel; bench/scaling.md says what it means.
bench-ranks: $(VENV)/.dev
	$(BIN)/python -m backprop_xp.bench.ranks

# In a process for each processor, which threads that wait leave to the others at once.
test: export OMP_WAIT_POLICY ?= passive
test: export OPENBLAS_THREAD_TIMEOUT ?= 4
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(TESTS)

# How much of the package the tests run, with branches; processes that tests start are not counted.
coverage: $(VENV)/.dev
	$(BIN)/python -m coverage run -m pytest $(TESTS)
	$(BIN)/python -m coverage report

# Digits, trained on one rank and on two: the models are the same bytes.
ranks: $(VENV)/.dev
	@mkdir -p build/ranks
	@for n in 1 2; do $(MPIEXEC) -n $$n $(BIN)/python -m backprop_xp train --data digits --force \
	  --model build/ranks/$$n.safetensors --plot build/ranks/$$n.png > build/ranks/$$n.txt || exit 1; done
	@grep -m 1 accuracy build/ranks/2.txt
	@cmp build/ranks/1.safetensors build/ranks/2.safetensors && echo "two ranks gave the bits of one"

# The tests of everything but the benchmark, with the lowest versions that pyproject.toml allows, in an environment of its own.
lowest: $(VENV)-lowest/.dev
	$(VENV)-lowest/bin/python -m pytest --ignore-glob='tests/test_bench*' $(TESTS)

$(VENV)-lowest/.dev: pyproject.toml .ci/lowest.py
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python .ci/lowest.py > $(VENV)-lowest/versions.txt
	$(VENV)-lowest/bin/python -m pip install -q -c $(VENV)-lowest/versions.txt -e '.[dev]'
	touch $@

# The built wheel works in an environment of its own, without this folder on the path.
wheel: $(VENV)/.dev
	rm -rf build/wheel
	$(BIN)/python -m build -q --wheel --outdir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install -q build/wheel/*.whl
	cd build/wheel && venv/bin/backprop-xp demo > demo.txt && tail -n 3 demo.txt

# On a machine with a CUDA device: the proof, then the speed, in stages of MINUTES together (bench/gpu.py). What each prints
# is in OUT, the benchmark's results in RESULTS as <device>.json and .md. NO_INSTALL=1 takes the packages that $(PYTHON)
# has, with this folder's through links in PRESENT. TESTS, BENCH and SMALL=1 make a smaller run.
MINUTES ?= 8
TESTS ?=
BENCH ?= --compile
RESULTS ?= bench/results
OUT ?= build/gpu
PRESENT ?= build/present
ifdef NO_INSTALL
GPU_READY := present
GPU_RUN := PYTHONPATH=$(abspath $(PRESENT))$${PYTHONPATH:+:$$PYTHONPATH} PYTHONSAFEPATH=1
GPU_PYTHON := $(PYTHON)
else
GPU_READY := $(VENV)/.gpu
GPU_PYTHON := $(BIN)/python
endif

gpu: $(GPU_READY)
	$(GPU_RUN) $(GPU_PYTHON) -m backprop_xp.bench.gpu --minutes $(MINUTES) --out $(OUT) --results $(RESULTS) \
	  --tests='$(TESTS)' --bench='$(BENCH)' $(if $(SMALL),--small)

# Links that are right are left alone: somebody may be importing through them.
present:
	@mkdir -p $(PRESENT)/backprop_xp
	@for path in $(CURDIR)/backprop_xp/* $(CURDIR)/kernels $(CURDIR)/bench; do \
	  link=$(PRESENT)/backprop_xp/$${path##*/}; [ "$$link" -ef "$$path" ] || ln -sfn "$$path" "$$link"; done
	@find $(PRESENT)/backprop_xp -type l ! -exec test -e {} \; -exec rm {} +

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/.dev
	$(BIN)/python -m mypy

# To build/site, which can be read from the disk; a link that leads nowhere is an error.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

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

$(VENV)/.gpu: pyproject.toml | $(BIN)/python
	$(if $(GPU_EXTRA),,$(error no NVIDIA driver answers: nvidia-smi says nothing))
	$(BIN)/python -m pip install -q -e '.[$(call extras,dev $(GPU_EXTRA))]'
	touch $@ $(VENV)/.dev $(VENV)/.bench

# NVRTC's of other versions beside the installed one, for tests/nvrtc.py: the oldest that this package takes, and the one
# that PyTorch for CUDA 13.0 brings, which is stricter than those before and after it.
$(VENV)/.nvrtc: $(VENV)/.dev
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/nvrtc/12.0 'nvidia-cuda-nvrtc-cu12==12.0.*'
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/nvrtc/13.0 'nvidia-cuda-nvrtc==13.0.*'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info
