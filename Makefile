# Two commands on a fresh machine do all: `make search` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NAME ?= quickstart
WORKERS ?= 2 # test files at once, a Ray each

.DEFAULT_GOAL := help
.PHONY: help search test check lint gpu chaos benchmark verify-models clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# torch first: its CPU build has to be there before anything asks for torch.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps mup # its own asks for plotting it need not
	@touch $@

search: $(VENV)/installed ## run the quickstart search and print what it recommends (NAME=... for another one)
	$(BIN)/hpsearch run search_spaces/quickstart.yaml --name $(NAME)

test: $(VENV)/installed ## the default tests, some minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The slow tests one after the other: they train, and a step of two threads crawls beside a busy neighbour.
check: lint test ## everything: lint, tests, the slow tests (README commands, quickstart, kills), a cluster's
	$(BIN)/python -m pytest -m slow --durations 20
	$(BIN)/python -m pytest -m cluster

gpu: $(VENV)/installed ## what needs a GPU: its tests, and how fast a stack trains there (five minutes)
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m tests.benchmarks.gpu_throughput

chaos: $(VENV)/installed ## every part killed at random moments, nodes cut off, disks full, load (an hour; root for all of it)
	$(BIN)/python -m pytest -m chaos
	$(BIN)/python -m tests.benchmarks.load --trials 1000 --sampler tpe
	$(BIN)/python -m tests.benchmarks.load --trials 7000 --sampler random --outage 60

benchmark: $(VENV)/installed ## the figures of the README, measured again (about an hour)
	$(BIN)/python -m tests.benchmarks.unswept_size
	$(BIN)/python -m tests.benchmarks.help_time
	$(BIN)/python -m tests.benchmarks.stack_throughput
	$(BIN)/python -m tests.benchmarks.stock_stack
	$(BIN)/python -m tests.benchmarks.width_transfer
	$(BIN)/python -m tests.benchmarks.anneal
	$(BIN)/python -m tests.benchmarks.memory_model
	$(BIN)/python -m tests.benchmarks.surface_transfer
	$(BIN)/python -m tests.benchmarks.surface_calibration
	$(BIN)/python -m tests.benchmarks.tuning_simulator --track one_size
	$(BIN)/python -m tests.benchmarks.tuning_simulator --track small_to_large
	$(BIN)/python -m tests.benchmarks.pruning
	$(BIN)/python -m tests.benchmarks.freezing
	$(BIN)/python -m tests.benchmarks.loss_prediction
	$(BIN)/python -m tests.benchmarks.shapes
	$(BIN)/python -m tests.benchmarks.tuning_outlook
	$(BIN)/python -m tests.benchmarks.load --trials 1000 --sampler tpe
	$(BIN)/python -m tests.benchmarks.load --trials 10000 --sampler random --output docs/load.svg

.venv-models/installed: tests/verify_models/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-models
	.venv-models/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-models/bin/python -m pip install --quiet --constraint constraints.txt -r tests/verify_models/requirements.txt
	@touch $@

verify-models: .venv-models/installed ## our models against those of transformers, in an environment of its own
	PYTHONPATH=. .venv-models/bin/python -m tests.verify_models.verify_models

clean: ## remove the environment; searches stay
	rm -rf $(VENV) .venv-models
