# Two commands: `make demo` (pre-train on a made-up video set, on any machine) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test quick lint gpu-check clean

install: .venv/.installed

.venv/.installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modist-fast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dali,video,dev]'
	touch $@

demo: install
	$(BIN)/python launch/demo.py --out demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/interrogate --quiet modist_fast kernels pipelines profiling launch

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# For the inner loop: without the tests that start processes of their own.
quick: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not gpu" -q

# Everything that only a GPU can show, about an hour; a folder to attach to an issue. GPU_CHECK=--dry-run on a CPU.
gpu-check: install
	$(BIN)/python profiling/gpu_check.py --out gpu-check $(GPU_CHECK)

clean:
	rm -rf .venv demo build gpu-check* *.egg-info
