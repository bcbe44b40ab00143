# Every target sets up what it needs: system packages through apt where it may,
# then a virtual environment in .venv.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PYTEST_WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup

.PHONY: setup demo test test-long test-apply-long test-machine test-container lint format bench coverage clean

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup
	scripts/setup $(VENV)
	@touch $@

demo: $(STAMP)
	examples/fix-nginx/demo $(BIN)

test: $(STAMP)
	$(PYTEST) -m "not long" tests

test-long: $(STAMP)
	$(PYTEST) -m long --timeout 14400 tests

# Applying alone, for hours: any script (so many of each kind), and each fault at each system call.
EXAMPLES ?= 20000
test-apply-long: $(STAMP)
	SHANNOT_EXAMPLES=$(EXAMPLES) $(PYTEST) -m long --timeout 86400 tests/runner/test_any_script.py \
		tests/runner/test_faults.py tests/runner/test_swaps.py tests/runner/test_power.py

# Limits by control groups, in an emulated machine with a kernel and a systemd of its own.
test-machine:
	tests/machine/run

# D-Bus, polkit and units as they are shipped, in a container with a systemd of its own. As root.
test-container:
	tests/container/run

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

coverage: $(STAMP)
	scripts/coverage $(BIN)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist .coverage*
