# STACK=cuda installs requirements/cuda.txt into .venv-cuda instead of the CPU lock into .venv.
STACK ?= cpu
VENV := .venv$(if $(filter-out cpu,$(STACK)),-$(STACK))
PYTHON_IN_VENV := $(VENV)/bin/python
ARGS ?=

# Ray's local clusters in tests need neither a token nor a network.
test test-unit test-gradients: export RAY_AUTH_MODE = disabled
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup train test test-unit test-gradients lint docs doctor images clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Create the virtual environment and install the pinned lock
	@scripts/setup.sh $(STACK) $(VENV)

train: setup ## Train; the embedded task by default, e.g. make train ARGS="algo=grpo seed=1"
	$(PYTHON_IN_VENV) -m archer.main $(ARGS)

test: setup ## Run every test; those that need a GPU skip themselves where there is none
	$(PYTHON_IN_VENV) -m pytest tests $(ARGS)

test-unit: setup ## Run the tests that need neither Ray nor vLLM (seconds)
	$(PYTHON_IN_VENV) -m pytest tests/unit $(ARGS)

test-gradients: setup ## Every objective and aggregation over the whole DeepSpeed grid (45 min)
	ARCHER_ALL_OBJECTIVES=1 $(PYTHON_IN_VENV) -m pytest tests/integration/test_gradients.py -q $(ARGS)

lint: setup ## Check style and types
	@$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m pyright

docs: setup ## Write docs/configuration.md from the config classes
	$(PYTHON_IN_VENV) -m archer.config.reference

doctor: setup ## Check this machine for a run, e.g. make doctor ARGS="cluster=1x8"
	@$(PYTHON_IN_VENV) -m archer.doctor $(ARGS)

images: ## Build the images with Docker; see docs/images.md
	docker build -f docker/cpu.Dockerfile -t archer:cpu .
	docker build -f docker/cuda.Dockerfile -t archer:cuda .

clean: ## Remove the virtual environments and caches; runs/ is kept
	rm -rf .venv .venv-cuda build dist *.egg-info .pytest_cache .ruff_cache
	find archer tests -name __pycache__ -type d -prune -exec rm -rf {} +
