# Two commands for a fresh machine: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: demo test test-long lint lock clean

demo: $(SETUP)
	$(BIN)/python -m pipeline.demo

# Two files of tests at a time, each test on one thread: more of either only take turns on two cores.
test: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-long: $(SETUP)
	$(BIN)/python -m pytest -m "long or not long"

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The lock is complete and hashed, so nothing is resolved here; --no-deps keeps opencv-contrib-python away, which
# rtmlib asks for and which would overwrite opencv-python's cv2.
$(SETUP): requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	touch $@

# Resolve anew after a change of pyproject.toml.
lock:
	$(BIN)/python -m uv pip compile pyproject.toml --extra perception --extra train --extra s3 --extra dev --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock

clean:
	rm -rf demo-output .pytest_cache .mypy_cache .ruff_cache
