# Two commands for a newcomer: `make demo` and `make test`.
BACKEND ?= jax
PYTHON ?= python3
# The CPU build is enough for the demo and the tests; set
# TENSORFLOW=tensorflow where there is no such build.
TENSORFLOW ?= tensorflow-cpu

VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(VENV)/bin/python -m pytest --durations=10
# Those that compile come first: they take longest.
BACKENDS := jax tensorflow torch

packages_jax := -e .[jax,examples]
packages_torch := -e .[torch,examples]
packages_tensorflow := $(TENSORFLOW) numba -e .[examples]
packages_docs := -e .[docs]

.PHONY: demo test test-all lint docs docs-serve try notebooks bench clean

## Trains a text classifier on real reviews: make demo BACKEND=torch
demo: $(VENV)/installed-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(VENV)/bin/python examples/text_classification.py

## Lints, then tests every backend, then that all of them agree.
test: MARK := not slow
test: suites

## The same with the slow sweeps.
test-all: MARK := slow or not slow
test-all: suites

# Two suites at a time: most of a suite is one thread that compiles.
.PHONY: suites suite-parity suite-numpy suite-triton $(BACKENDS:%=suite-%)
suites: lint docs wheel
	$(MAKE) --no-print-directory -j2 --output-sync=target MARK="$(MARK)" \
	  $(BACKENDS:%=suite-%) suite-triton suite-parity suite-numpy

$(BACKENDS:%=suite-%): suite-%: $(VENV)/installed-all
	@echo "== $*"
	KERAS_BACKEND=$* OMP_NUM_THREADS=1 $(PYTEST) tests -m "$(MARK)" \
	  --ignore tests/test_backend_parity.py

# Triton's interpreter runs the kernels for a GPU; see tests/interpreter.py.
suite-triton: $(VENV)/installed-all
	@echo "== triton"
	KERAS_BACKEND=torch TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(PYTEST) \
	  tests/ops/test_ops.py tests/ops/test_laws.py tests/ops/test_torch.py \
	  tests/kernels/test_triton.py -m "$(MARK)"

suite-numpy: $(VENV)/installed-all
	KERAS_BACKEND=numpy $(PYTEST) tests/ops -m "$(MARK)"

suite-parity: $(VENV)/installed-all
	KERAS_BACKEND=jax $(PYTEST) tests/test_backend_parity.py -m "$(MARK)"

.PHONY: wheel
wheel: $(VENV)/installed-all
	rm -rf build && $(VENV)/bin/pip wheel --quiet --no-deps -w build/wheel .

lint: $(VENV)/installed-all
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

## Builds the documentation into site/, and fails at a wrong link; or shows
## it while it is written.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

docs-serve: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs serve

## Writes notebooks/ from the scripts in examples/tutorials/.
notebooks: $(VENV)/installed-all
	$(VENV)/bin/python examples/make_notebooks.py

## Does what docs/start.md says in a new environment: make try BACKEND=torch.
## FIRST is installed before: FIRST=torch==2.13.0, a build for a CPU.
FIRST ?=
try: wheel
	$(VENV)/bin/python docs/try_start.py $(BACKEND) \
	  --wheel build/wheel/*.whl --first $(FIRST)

## Times ops, layers and steps on every backend, ours and peers:
## make bench SETTING=full. See benchmarks/README.md.
SETTING ?= quick
bench: $(VENV)/installed-all
	$(VENV)/bin/python benchmarks/bench.py --setting $(SETTING)
	$(VENV)/bin/python benchmarks/plots.py
	$(VENV)/bin/python benchmarks/readme.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) $(packages_$*)
	touch $@

$(VENV)/installed-all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) $(TENSORFLOW) -e .[torch,jax,examples,test,docs]
	touch $@

clean:
	rm -rf $(VENV) build dist site
