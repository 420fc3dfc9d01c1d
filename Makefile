# Targets: quickstart, test, test-long, check, fix, soak, benchmarks. Another torch build: make quickstart TORCH="torch==2.12.1 …"
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= -c constraints-torch.txt torch
VENV := .venv
BIN := $(VENV)/bin
RUN := outputs/tiny_journey

.PHONY: quickstart test test-long check fix benchmarks soak

quickstart: $(VENV)/.quickstart
	$(BIN)/auricle train +experiments=tiny_journey
	$(BIN)/auricle eval $(RUN) --data commands --split test
	$(BIN)/auricle transcribe $(RUN) $$(ls data/commands-*/audio/test/*.wav | head -n 1)
	$(BIN)/auricle report $(RUN)

test: export OMP_NUM_THREADS := 1
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m "not long"

test-long: export OMP_NUM_THREADS := 1
test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m long

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_architecture.py

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .

benchmarks: $(VENV)/.dev
	$(BIN)/python -m benchmarks

soak: export OMP_NUM_THREADS := 1
soak: $(VENV)/.dev
	$(BIN)/python -m tests.journeys.soak --kills 2000 --log docs/soak.jsonl

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing; install it (Debian, Ubuntu: apt install python3-venv) and run make again"; rm -rf $(VENV); exit 1; }

$(VENV)/.torch: constraints-torch.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet $(TORCH)
	@touch $@

$(VENV)/.quickstart: pyproject.toml constraints.txt $(VENV)/.torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[synth]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[synth,tensorboard,wandb,trackio,demo,alarms,dev]'
	@touch $@ $(VENV)/.quickstart
