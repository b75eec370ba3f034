# Two commands on a fresh machine: `make demo` and `make test`. Each makes the environment it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread a process: tests run side by side, one a core.
test: export OMP_NUM_THREADS = 1

.PHONY: demo test lint types bench bench-gpu fuzz clean

demo: $(STAMP)
	$(BIN)/modelkin demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Every GPU figure, with driver and torch version. GPU="--smoke" runs it small and without one.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py $(GPU)

# Coverage-guided, three minutes a reader: FUZZ="-max_total_time=3600" for longer.
FUZZ ?= -max_total_time=180
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet atheris
	for target in gguf safetensors torch names; do \
		$(BIN)/python benchmarks/fuzz.py $$target $(FUZZ) || exit 1; \
	done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $(STAMP)
