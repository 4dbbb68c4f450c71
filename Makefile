# make demo: environment, then the whole study on the embedded sample. make test: environment, then the tests.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

.PHONY: help install demo test test-long soak bench lint clean

help:
	@echo "make demo       environment, then the whole study on the embedded sample (output: ./demo_output)"
	@echo "make test       environment, then the tests"
	@echo "make test-long  the tests that take minutes"
	@echo "make soak       try to lose or damage something for half an hour (docs/reliability.md)"
	@echo "make bench      time every stage's work against the plain recipe (docs/performance.md)"
	@echo "make lint       the linter and the type checker"
	@echo "make install    the environment alone ($(VENV))"
	@echo "make install TORCH_INDEX=https://download.pytorch.org/whl/cpu   the same without CUDA's libraries (4.1 GB less)"
	@echo "make clean      remove the demo's output and caches (not $(VENV))"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): requirements.txt constraints.txt | $(BIN)/python
	@echo "Installing what the study needs into $(VENV) (about 2 minutes and 6 GB, 4.1 GB of it CUDA's libraries: see README) ..."
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		`grep -E '^torch(vision)?==' constraints.txt` --index-url $(TORCH_INDEX) && \
		$(BIN)/python -c "import torchvision" || { echo "$(TORCH_INDEX) gave no torch and torchvision that load together: run make without TORCH_INDEX"; exit 2; }; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python run_pipeline.py --demo

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile

test-long: $(DEV_STAMP)
	$(BIN)/python -m pytest -q -m long

soak: $(DEV_STAMP)
	$(BIN)/python benchmarks/soak.py

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/bench.py

lint: $(DEV_STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf demo_output .pytest_cache .ruff_cache
