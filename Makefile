# Each target makes its own environment; all it needs is Python 3.11 or newer and the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test benchmark accelerator docs build format clean

quickstart: $(VENV)/installed
	$(BIN)/python main.py --config=configs/quickstart.py --workdir=runs/quickstart

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist worksteal

# On photographs, too: make benchmark BENCHMARK_FLAGS=--coco=/data/coco
benchmark: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[benchmark]'
	$(BIN)/python -m benchmarks $(BENCHMARK_FLAGS)

# On a GPU; on a TPU: make accelerator ACCELERATOR=tpu
ACCELERATOR ?= cuda12
accelerator: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[$(ACCELERATOR)]'
	$(BIN)/python -m benchmarks --parts=accelerator --output=runs/accelerator

# Builds the pages in site/; a dead link or anchor is an error.
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict

# Writes the wheel and the source archive to dist/.
build: $(VENV)/installed
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .cache *.egg-info

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is older than Python 3.11; use make PYTHON=/path/to/python3.11'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
