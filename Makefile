# Verbs that people and .ci/run call. Everything happens in .venv, which is made when it is missing.
PYTHON ?= python3
# cpu or gpu: which build of faiss is installed.
FAISS ?= cpu
# An index of CPU builds of torch saves gigabytes where pip would take CUDA builds; empty: pip's own index.
TORCH_INDEX_URL ?=
# In a variable, since a comma would end an argument of $(if).
TORCH := 'torch>=2.11,<2.14' 'torchvision>=0.26,<0.29'
# More arguments for the command behind a verb, for example: make demo ARGS=--check
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# What the product needs, and what developers need besides.
PRODUCT := $(VENV)/.product-$(FAISS)
STAMP := $(VENV)/.developer-$(FAISS)

# Files of tests side by side, one process a core.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-postgresql gpu-check check fmt bench openapi lock

help: ## list these verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with everything in it, the command line included: .venv/bin/akin

$(PRODUCT): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Akin needs Python 3.11 to 3.13; name one: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX_URL),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX_URL) $(TORCH))
	@echo 'Installing into $(VENV): a minute or two the first time.'
	$(BIN)/python -m pip install --quiet --editable '.[$(FAISS),offline]'
	touch $@

$(STAMP): $(PRODUCT)
	$(BIN)/python -m pip install --quiet --editable '.[$(FAISS),dev]'
	touch $@

demo: $(PRODUCT) ## fill a small catalogue, build a release, serve it (ARGS=--check: measure and stop)
	$(BIN)/akin demo $(ARGS)

# Two networks at work side by side get in each other's way: one thread each, unless the environment says otherwise.
test test-long test-postgresql: export OMP_NUM_THREADS ?= 1

test: $(STAMP) ## run the quick tests: some minutes, no browser or gateway needed
	$(PYTEST) $(ARGS)

test-long: $(STAMP) ## run the tests that start processes: killed workers, PostgreSQL, gateway, browser, ONNX Runtime
	$(PYTEST) -m 'long and not gpu and not slow' $(ARGS)
	$(PYTEST) --runtime onnxruntime tests/service/web/routes/test_search.py tests/service/web/test_admission.py $(ARGS)
	$(PYTEST) --database postgresql tests/service $(ARGS)

test-postgresql: $(STAMP) ## run the service's quick tests on PostgreSQL (a part of test-long)
	$(PYTEST) --database postgresql tests/service $(ARGS)

# Without .venv: a GPU machine often has torch and no package index.
gpu-check: ## check a GPU machine: its tests, training, embedding (AKIN_GPU_CHECK_DATA=FOLDER: images)
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m benchmarks.gpu_check \
	  $(if $(AKIN_GPU_CHECK_DATA),--data "$(AKIN_GPU_CHECK_DATA)") $(ARGS)

check: $(STAMP) ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each measures for at most about a minute and writes its ratios to a file; the table of all comes last.
# PHOTOS=FOLDER measures with its JPEG files, DATASET=PATH with the features of a dataset; both are drawn otherwise.
BENCHMARKS ?= search_latency decoding_speed bulk_speed feature_speed
PHOTOS ?=
DATASET ?=
# PEERS=1 adds other frameworks, which pip downloads at the first run; ARGS are theirs.
PEERS ?=
RATIOS = $(patsubst %,build/bench/%.json,$(BENCHMARKS) $(if $(PEERS),peers))

bench: $(STAMP) ## measure search, decoding, bulk embedding, features (PEERS=1: other frameworks too)
	@mkdir -p build/bench
	@set -e; for name in $(BENCHMARKS); do \
	  case $$name in feature_speed) given='$(if $(DATASET),--data $(DATASET))';; *) given='$(if $(PHOTOS),--photos $(PHOTOS))';; esac; \
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name $$given --json build/bench/$$name.json; \
	done
	$(if $(PEERS),$(BIN)/python -m benchmarks.peers --json build/bench/peers.json $(ARGS))
	@echo '== ratios'; $(BIN)/python -m benchmarks.table $(RATIOS)

openapi: $(STAMP) ## write docs/openapi.json anew
	$(BIN)/akin openapi > docs/openapi.json

UV := build/uv/bin/uv
$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet 'uv>=0.9'

lock: $(UV) ## compile requirements/*.txt from pyproject.toml (ARGS=--upgrade: to the newest versions)
	PATH="$(CURDIR)/build/uv/bin:$$PATH" sh requirements/compile.sh $(ARGS)
