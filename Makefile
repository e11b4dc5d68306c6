# Every target makes what it needs: `make train` works as the first command in a fresh clone.
SHELL := /bin/bash
PYTHON_VERSION ?= 3.11
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo $(VENV)/uv/bin/uv)
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-hydra-next lint schema bench tensorboard lock audit-deps rename clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY) ## Make .venv with everything in requirements.lock

# uv, because it checks hashes, compiles bytecode (start-up is three times faster) and takes torch and torchvision
# from one source (builds from two do not load together). Where it is missing it goes into the environment itself.
$(READY): requirements.lock pyproject.toml
	@command -v uv >/dev/null || { [ -x $(VENV)/uv/bin/uv ] || { python3 -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install -q uv; }; }
	@[ -x $(BIN)/python ] || $(UV) venv -q --allow-existing --python $(PYTHON_VERSION) $(VENV)
	VIRTUAL_ENV=$(VENV) $(UV) pip install -q --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(UV) pip install -q --no-deps --no-build-isolation -e .
	@touch $@

train: $(READY) ## Fine-tune ImageNet weights on real handwritten digits; ARGS="..." adds overrides
	$(BIN)/visiontune train $(ARGS)

# A thread a worker: idle threads of processes that share cores would spin (docs/testing.md). WORKERS=8 on a larger machine.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test: $(READY) ## The tests, in 4 minutes on 2 cores (offline, no GPU needed)
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(READY) ## Products, whole searches, real processes and kills: 20 minutes more
	$(PYTEST) -m slow $(ARGS)

# Its environment has only Hydra and what Hydra needs; all other packages are those of .venv.
HYDRA_NEXT ?= 1.4.0rc3
NEXT := .venv-hydra-next
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
NEXT_TESTS := tests/test_package.py tests/sweeps tests/config tests/test_cli.py tests/test_command_line.py tests/training/test_resolve.py \
  tests/cases/test_command_lines.py tests/cases/test_config_nodes.py \
  tests/end_to_end/test_processes.py tests/end_to_end/test_sweep.py tests/end_to_end/test_sweep_failures.py

test-hydra-next: $(READY) ## The tests of sweeps and configs with the next Hydra, whose deprecations are errors
	@[ -x $(NEXT)/bin/python ] || $(UV) venv -q --python $(BIN)/python $(NEXT)
	VIRTUAL_ENV=$(NEXT) $(UV) pip install -q --prerelease=allow hydra-core==$(HYDRA_NEXT)
	@echo "import site; site.addsitedir('$$($(BIN)/python $(PACKAGES))')" > $$($(NEXT)/bin/python $(PACKAGES))/venv.pth
	HYDRA_DEPRECATION_WARNINGS_AS_ERRORS=1 $(subst $(BIN),$(NEXT)/bin,$(PYTEST)) -W "error:Implicit conversion" $(NEXT_TESTS) $(ARGS)

lint: $(READY) ## ruff, mypy, the direction of imports, and the limits of scripts/house.py
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/house.py

schema: $(READY) ## Write the JSON schemas of the configs, which editors check YAML files with
	$(BIN)/python scripts/schema.py

bench: $(READY) ## Speed against a hand-written loop, written to docs/benchmarks.md
	$(BIN)/python -m benchmarks.speed

tensorboard: $(READY) ## Curves and images of every run under logs/
	$(BIN)/tensorboard --logdir logs

lock: ## Renew requirements.lock from pyproject.toml
	$(UV) pip compile --universal --generate-hashes --extra dev -q --no-header -o requirements.lock pyproject.toml

# --strict: otherwise it exits with 0 when the database does not answer. OSV_URL=http://HOST/v1/query asks a mirror.
audit-deps: $(READY) ## Look up each package of requirements.lock in the OSV database of vulnerabilities (needs a network)
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements.lock -s osv $(if $(OSV_URL),--osv-url $(OSV_URL))

rename: $(READY) ## Give the project another name: make rename NAME=birdwatch
	$(BIN)/python scripts/rename.py "$(NAME)"

clean: ## Remove the environment and caches (never logs/)
	rm -rf $(VENV) $(NEXT) .mypy_cache .ruff_cache .pytest_cache
