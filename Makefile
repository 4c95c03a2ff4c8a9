# Everything heatwalk needs is made here: `make run` and `make test` work in a clean clone with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRIALS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test lint format environments qualify cluster-test clean

run: $(READY) ## the main job: every dataset of config/datasets.tsv
	$(BIN)/heatwalk run --cores all

test: $(READY) lint ## linters, then the tests: two files at a time, as half of them wait for programs they started
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(READY) ## ruff, snakefmt, snakemake --lint, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/python -m snakemake --lint --quiet
	$(BIN)/lint-imports --no-logo

environments: ## write the conda files again after a change of the pip files
	$(PYTHON) envs/conda.py

format: $(READY) ## put code into the form that lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

qualify: $(READY) ## the long suite, by stage and kind of fault; what passed for this code is not run again (TRIALS=30: longer)
	TRIALS=$(TRIALS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m qualification --override-ini "addopts="

cluster-test: $(READY) ## the workflow and Dask on a real Slurm on this machine, started and stopped by the tests
	command -v slurmctld > /dev/null || PATH=$$PATH:/usr/sbin command -v slurmctld > /dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update --quiet=2 && \
	    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends slurm-wlm munge; } || \
	  echo "no Slurm, and it cannot be installed here (Debian, as root): the tests will say that they are skipped"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m cluster --override-ini "addopts=--strict-markers -ra" tests

clean: ## what a run leaves behind; results stay
	rm -rf .snakemake logs build dist .pytest_cache .ruff_cache

# Exact versions, then heatwalk itself. The neural stages' torch is the large part of the download.
$(READY): envs/base.txt envs/neural.txt envs/cluster.txt envs/dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r envs/base.txt -r envs/neural.txt -r envs/cluster.txt -r envs/dev.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@
