# Every target makes .venv by itself; nothing else needs to be installed but Python 3.11 or later.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,$(shell $(p) -c 'import sys; print("$(p)" if (3,11) <= sys.version_info < (3,14) else "")' 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: quickstart test check bench clean

# The numbers are shown when the gate refuses the release, too: that is when they are wanted most.
quickstart: $(STAMP)
	@$(BIN)/publius run quickstart; code=$$?; $(BIN)/publius show quickstart; \
	echo "report: runs/quickstart/report.html     chat: $(BIN)/publius chat quickstart"; exit $$code

# Two test processes of one thread each: more threads than cores cost up to five times the time.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov=publius --cov-report=term --cov-fail-under=90

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_house.py

bench: $(STAMP)
	@for script in $(sort $(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11-3.13 found; set PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
