# make demo — the main job, from a fresh machine to demo/report.html
# make test — the tests, likewise
#
# Override: PYTHON (interpreter), VENV (folder), PIP_FLAGS (for pip install), CONSTRAINTS (pins), OUT (folder of the demo).

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
CONSTRAINTS ?= constraints.txt
OUT ?= demo

# One thread each: OpenMP threads that spin on shared cores cost more than they give.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

KEY := $(shell { cat pyproject.toml $(CONSTRAINTS); $(PYTHON) -c 'import sys; print(sys.executable, sys.version)'; } | cksum | tr -d ' ')
STAMP := $(VENV)/installed-$(KEY)

.PHONY: demo test heavy benchmark lint clean

demo: $(STAMP)
	$(VENV)/bin/fieldtheory demo --out $(OUT)

test: $(STAMP)
	$(VENV)/bin/python -m pytest

heavy: $(STAMP)
	$(VENV)/bin/python -m pytest -m heavy

benchmark: $(STAMP)
	$(VENV)/bin/python -m pytest -m benchmark -s tests/benchmarks

lint: $(STAMP)
	$(VENV)/bin/ruff check .

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -e '.[test]' -c $(CONSTRAINTS)
	rm -f $(VENV)/installed-*
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
