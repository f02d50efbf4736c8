# `make help` lists the targets. Every target installs what it needs.
.DEFAULT_GOAL := help
SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml docker/constraints.txt
	@if command -v uv >/dev/null; then \
	  { test -x $(BIN)/python || uv venv --quiet --python '>=3.11' $(VENV); } && \
	  uv pip install --quiet --python $(BIN)/python -c docker/constraints.txt -e '.[s3,serve,clip,jxl]' --group dev; \
	else \
	  { test -x $(BIN)/pip || python3 -m venv $(VENV); } && \
	  $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --quiet -c docker/constraints.txt -e '.[s3,serve,clip,jxl]' --group dev; \
	fi
	@touch $@

$(VENV)/.wordnet: $(READY)
	@$(BIN)/mofe data wordnet 2>/dev/null || scripts/install-wordnet
	@touch $@

runs/digits/.complete: | $(READY)
	@$(BIN)/mofe data digits --to runs/digits

setup: $(READY) $(VENV)/.wordnet  ## install the Python environment and WordNet

demo: setup runs/digits/.complete  ## run the whole pipeline on handwritten digits: prints a table, writes runs/demo/report.html
	@$(BIN)/mofe run -f examples/digits.yaml --work runs/demo

test: setup  ## run all tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# only mathematics and data: no service, no process, no training
FAST := tests/detection tests/partitioning tests/data tests/training tests/test_parameters.py

test-fast: $(READY)  ## run the tests that start no service or process: under 2 minutes
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not integration and not containers' $(FAST) $(ARGS)

format: $(READY)  ## format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lint: $(READY)  ## check format, style, types, direction of imports, and dangerous calls (bandit)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/bandit -q -r src -c pyproject.toml

compile: $(READY)  ## write pipelines/compiled/*.yaml and docs/reference/*.md from the code
	@$(BIN)/python -m pipelines.mofe
	@$(BIN)/python -m pipelines.sharded
	@$(BIN)/python -m pipelines.tables
	@$(BIN)/python -m pipelines.detect
	@$(BIN)/python -m pipelines.reference
	@$(BIN)/python docs/tools/reference.py

check-compiled: $(READY)  ## fail if the files that `make compile` writes are stale
	@$(BIN)/python -m pytest -q tests/pipeline/test_compiled.py tests/test_docs.py -k 'what_the_code_compiles_to or page_of_parameters'

# uv keeps the versions in the file; ARGS=--upgrade takes the newest versions that pyproject.toml allows
pins:  ## write docker/constraints.txt, the version of every package in the images and tests; needs uv
	@grep -oP 'pip install \K[^\\&]*' docker/Dockerfile | tr ' ' '\n' | grep '^[a-z]' | uv pip compile --quiet pyproject.toml - \
	  --all-extras --group dev --group audit --group fuzz --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --no-annotate --custom-compile-command 'make pins' --no-emit-index-url -o docker/constraints.txt $(ARGS)

BENCHMARKS := knn_scoring image_loading training_step partition metrics_and_detectors pipeline_overhead gpu gpu_stages

$(VENV)/.bench: $(READY)
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --python $(BIN)/python -c docker/constraints.txt -e '.[bench]'; \
	else $(BIN)/python -m pip install --quiet -c docker/constraints.txt -e '.[bench]'; fi
	@touch $@

benchmark: setup $(VENV)/.bench  ## measure speed against peers: under 20 minutes; writes docs/benchmarks.md
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py; done
	@$(BIN)/python benchmarks/render.py

# A separate environment without torch, because the pages are read from the source
.venv-docs/.ready: pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python '>=3.11' .venv-docs && uv pip install --quiet --python .venv-docs/bin/python --group docs; \
	else \
	  python3 -m venv .venv-docs && .venv-docs/bin/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	  .venv-docs/bin/python -m pip install --quiet --group docs; \
	fi
	@touch $@

docs: .venv-docs/.ready  ## build the documentation as a site: site/index.html
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

images: $(READY)  ## build the container images; REGISTRY=… TAG=… ENGINE=docker|podman PUSH=1
	@$(BIN)/python docker/build.py

test-containers: setup  ## build the images and run the pipeline in them; needs a container engine
	@MOFE_TEST_CONTAINERS=1 $(BIN)/python -m pytest tests/containers $(ARGS)

$(VENV)/.mutmut: $(READY)
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --python $(BIN)/python -c docker/constraints.txt --group mutation; \
	else $(BIN)/python -m pip install --quiet -c docker/constraints.txt --group mutation; fi
	@touch $@

mutants: setup $(VENV)/.mutmut  ## test the tests of changed files by mutation; BASE=origin/main FILES=…
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(if $(BASE),--base $(BASE)) $(FILES)

audit: $(READY)  ## check the pinned versions for known vulnerabilities; needs the network
	@uv pip install --quiet --python $(BIN)/python -c docker/constraints.txt --group audit
	@grep -v faiss-gpu docker/constraints.txt | $(BIN)/pip-audit --strict --no-deps --disable-pip -r /dev/stdin

clean:  ## remove all results, keep the environment
	@rm -rf runs site mutants .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup demo test test-fast format lint compile check-compiled pins benchmark docs images test-containers mutants audit clean
