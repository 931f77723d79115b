# Every target makes .venv by itself; nothing else needs to be installed but Python 3.11 to 3.13.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,$(shell $(p) -c 'import sys; print("$(p)" if (3,11) <= sys.version_info < (3,14) else "")' 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: quickstart test test-all check bench wheelhouse clean

# The numbers are shown when the gate refuses the release, too: that is when they are wanted most.
quickstart: $(STAMP)
	@$(BIN)/publius run quickstart; code=$$?; $(BIN)/publius show quickstart; \
	echo "report: runs/quickstart/report.html     chat: $(BIN)/publius chat quickstart"; exit $$code

# Two test processes of one thread each: more threads than cores cost up to five times the time.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov=publius --cov-report=term --cov-fail-under=90

# And what takes half a minute or more each: smoke runs of benchmarks and of long recipes, every case of the OpenAPI.
test-all: export PUBLIUS_SLOW := 1
test-all: test

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_house.py

# What is claimed and can be measured on a CPU, the other side in the same run; hours on two cores.
# NANOCHAT=/a/checkout adds nanochat, LLAMA=/its/build/bin llama.cpp, DATA='texts/*.jsonl.xz' the optimizers,
# TRL=/a/venv/bin/python TRL.
# GPUs: benchmarks/gpu.sh.
bench: $(STAMP)
	$(BIN)/python benchmarks/train_vs_hf.py --out docs/results
	$(BIN)/python benchmarks/engine_cpu.py $(if $(LLAMA),--llama-cpp '$(LLAMA)') --out docs/results
	$(BIN)/python benchmarks/engine_prefix.py --out docs/results
	$(BIN)/python benchmarks/engine_grammar.py --out docs/results
	$(BIN)/python benchmarks/engine_long.py --out docs/results
ifdef NANOCHAT
	$(BIN)/python benchmarks/train_vs_nanochat.py '$(NANOCHAT)' --out docs/results
endif
ifdef TRL
	$(BIN)/python benchmarks/rl_vs_trl.py --trl-python '$(TRL)' --out docs/results
endif
ifdef DATA
	$(BIN)/python benchmarks/optimizers.py --home build/bench --data '$(DATA)' --out docs/results
endif
	$(BIN)/python benchmarks/monitor_cost.py --out docs/results
	$(BIN)/python benchmarks/server.py --out docs/results
	$(BIN)/python benchmarks/server_start.py --out docs/results
	$(BIN)/python benchmarks/lr_transfer.py --home build/bench --out docs/results
	$(BIN)/python benchmarks/quickstart_seeds.py --home build/bench --out docs/results

# For benchmarks/gpu.sh: what a machine with Python 3.12 and PyTorch, but no network, lacks. Left out: PyTorch
# and what comes with it, and what only tests, other stages or signatures need.
WHEELS_WITHOUT := attrs|jsonschema.*|referencing|rpds-py|torch|triton|nvidia-.*|sympy|networkx|mpmath|Jinja2|MarkupSafe|coverage|cffi|cryptography|datatrove|\
dill|execnet|grimp|humanize|hypothesis|import-linter|iniconfig|loguru|multiprocess|nodeenv|pluggy|pycparser|pyright|\
pytest|pytest-.*|python-dateutil|ruff|sortedcontainers|tzdata|\
alembic|anthropic|boto3|botocore|certifi|charset-normalizer|docstring_parser|fastapi|graphql-core|greenlet|harfile|httptools|\
hypothesis-graphql|jiter|jmespath|jsonschema_rs|Mako|openai|opentelemetry-api|playwright|prometheus_client|psycopg.*|pyee|\
pyrate-limiter|requests|s3transfer|schemathesis|six|sniffio|SQLAlchemy|starlette|urllib3|uvicorn|Werkzeug
PLATFORMS := $(foreach tag,manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014,--platform $(tag)_x86_64)

wheelhouse: $(STAMP)
	rm -rf wheelhouse
	mkdir wheelhouse
	grep -Ev '^($(subst $() ,,$(WHEELS_WITHOUT)))==' constraints.txt > wheelhouse/requirements.txt
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \
	  $(PLATFORMS) --dest wheelhouse --requirement wheelhouse/requirements.txt
	@du -sh wheelhouse

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11-3.13 found; set PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
