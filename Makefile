# Two commands: `make demo` (pre-train on a made-up video set, on any machine) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo docs test long faults test-oldest quick lint gpu-check clean

install: .venv/.installed

# The builds of torch, DALI and CuPy that the driver can use: see builds.py.
.venv/.installed: setup.py constraints.txt builds.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modist-fast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	set -f; words="$$(TORCH_INDEX='$(TORCH_INDEX)' $(PYTHON) builds.py)" && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$words
	touch $@

demo: install
	$(BIN)/python launch/demo.py --out demo

# The pages as a site, in build/site/index.html; needs no network. A link that leads nowhere is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/interrogate --quiet modist_fast kernels pipelines profiling launch

test: lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

# The oldest torch and Triton that setup.py allows: kernels interpreted and compiled ahead of time, the method, a run.
OLDEST := .venv-oldest/bin/python
test-oldest: .venv-oldest/.installed
	$(OLDEST) -m pytest --numprocesses 2 --dist loadfile -q tests/kernels tests/method
	rm -rf .venv-oldest/demo
	$(OLDEST) launch/demo.py --out .venv-oldest/demo --num-videos 32 --max-steps 6

.venv-oldest/.installed: setup.py constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST) -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[dali,onnx,hub,dev]'
	touch $@

# What `make test` leaves out: whole tables and pages, every real video, the second case of what one case shows.
long: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long

# Every fault of docs/reliability.md. Thirty kills of one run: python -m tests.faults.kills
faults: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m fault

# For the inner loop: without the tests that start processes of their own.
quick: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not gpu and not long" -q

# Everything that only a GPU can show, about an hour; a folder to attach to an issue. GPU_CHECK=--dry-run on a CPU,
# GPU_CHECK='--skip-done --deadline 540' where a machine is lent for minutes.
gpu-check: install
	$(BIN)/python profiling/gpu_check.py --out gpu-check $(GPU_CHECK)

clean:
	rm -rf .venv .venv-oldest demo build gpu-check* *.egg-info
