# Each target sets up what it needs: Python >= 3.11 with venv, apt and root are enough to begin with.
PYTHON ?= python3
VENV ?= .venv
# Test processes at once: they wait more than they compute. 0 runs all in pytest's own process.
JOBS ?= 4
PYTEST_ARGS ?=
SECONDS ?= 60
# What `make stress` runs on: all (rsync,btrfs,reflink,overlayfs), some of them, or with zfs too.
STORES ?= all
ZFS_TESTS = plugins/store-zfs/tests
export PYTHON VENV

BIN = $(VENV)/bin
TREE = core plugins tests examples scripts benchmarks conftest.py

.PHONY: help venv system demo test pytest lint types format stress bench fuzz lock clean

help:
	@echo "make demo     build a C program in a sandbox, then again from the cache"
	@echo "make test     lint, types and all tests (PYTEST_ARGS='-k name', JOBS=0)"
	@echo "make pytest   the tests alone"
	@echo "make lint     ruff, mypy and import-linter"
	@echo "make format   let ruff lay out the code"
	@echo "make bench    measure start-up, lines per file, reading specs, locks"
	@echo "make fuzz     fuzz the spec language by coverage (SECONDS=60)"
	@echo "make stress   many builds at once, kills (-9), power cuts, 1,000 builds (STORES=rsync,zfs)"
	@echo "make lock     make requirements.lock anew"
	@echo "make clean    remove what the other targets made"

venv:
	@scripts/setup-venv

system:
	@scripts/setup-system test

demo: venv
	@scripts/setup-system demo
	@scripts/demo

test: lint pytest

# A directory of its own: pytest clears away what earlier runs left in the common
# one, and fails where another run, or a crashed one, has something mounted.
pytest: venv system
	@tmp=$$(mktemp -d /tmp/obuilder-tests.XXXXXX) && \
	trap 'rm -rf --one-file-system "$$tmp"' EXIT && \
	TMPDIR=$$tmp $(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

lint: venv types
	$(BIN)/python -m ruff check $(TREE)
	$(BIN)/python -m ruff format --check $(TREE)
	$(BIN)/lint-imports --no-logo --no-cache

types: venv
	$(BIN)/python scripts/check_types.py

format: venv
	$(BIN)/python -m ruff check --fix $(TREE)
	$(BIN)/python -m ruff format $(TREE)

# By hand: it needs atheris, which has wheels for some Pythons only.
fuzz:
	@scripts/fuzz $(SECONDS)

# By hand: for each store 200 kills take 10 minutes, 400 builds a few; 2,000 kill points an hour;
# 1,000 builds 10 minutes.
stress: venv system
	OBUILDER_STRESS=400 OBUILDER_STRESS_RUNC=100 OBUILDER_STORM=140 OBUILDER_STORES=$(STORES) \
		$(BIN)/python -m pytest -q --timeout=3600 tests/test_stress.py tests/test_kill_storm.py \
		$(if $(findstring zfs,$(STORES)),$(ZFS_TESTS)/test_zfs_storm.py)
	OBUILDER_CUTS=100 OBUILDER_KILL_STRIDE=1 OBUILDER_KILL_STORES=$(STORES) \
		$(BIN)/python -m pytest -q -rP --timeout=7200 \
		tests/test_kill_points.py tests/test_power_cut.py \
		$(if $(findstring zfs,$(STORES)),$(ZFS_TESTS)/test_zfs_kills.py)
	OBUILDER_BUILDS=1000 OBUILDER_LONG_STORES=$(STORES) \
		$(BIN)/python -m pytest -q -s --timeout=3600 tests/test_long_runs.py

bench: venv
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/parse.py
	$(BIN)/python benchmarks/locks.py

lock:
	@scripts/lock

clean:
	rm -rf .demo .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis $(VENV)
