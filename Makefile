# make tiny   the embedded study: environment, run, main table, figures
# make test   every check; what .ci/run runs
# make help   all targets

SHELL := /bin/bash
STUDY ?= tiny
CORES ?= all
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := $(abspath $(VENV))/bin
TORCH := torch==2.13.0

# No step needs the network but to fetch a model or data set that a study names by its hub id.
export HF_HUB_DISABLE_TELEMETRY := 1
export PATH := $(BIN):$(PATH)

.PHONY: help env tiny run show report publish check calibrate-judges test lint types unit smoke bench-train bench-generate bench-similarity bench-tables clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

env: $(VENV)/.installed ## make the environment: PyTorch first, then everything else at its locked version

$(VENV)/.installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

tiny: env ## run the embedded study and print its main table
	@$(MAKE) --no-print-directory run STUDY=tiny

run: env ## run STUDY (a name under config/ or a path)
	@python -m selfcontrast check $(STUDY)
	@snakemake --cores $(CORES) --config study=$(STUDY) --quiet rules host reason 2>&1 | $(BIN)/python -m selfcontrast progress; exit $${PIPESTATUS[0]}
	@python -m selfcontrast show $(STUDY)

show: env ## print the main table of STUDY
	@python -m selfcontrast show $(STUDY)

report: env ## write results/STUDY/report.zip, the HTML report of a finished study
	snakemake --cores 1 --config study=$(STUDY) --report results/$(basename $(notdir $(STUDY)))/report.zip

publish: env ## copy the tables and figures of STUDY to results/published/
	@python -m selfcontrast publish $(STUDY)

check: env ## check STUDY without running it
	@python -m selfcontrast check $(STUDY)

calibrate-judges: env ## win rates of AlpacaEval's annotations in FOLDER, compared with the file LEADERBOARD if given
	@test -n "$(FOLDER)" || { echo "name a folder of <model>/<annotator>/annotations.json: make calibrate-judges FOLDER=../alpaca_eval/results"; exit 2; }
	@python -m selfcontrast calibrate "$(FOLDER)" $(if $(LEADERBOARD),--leaderboard "$(LEADERBOARD)")

test: lint types unit smoke ## every check

lint: env ## ruff, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint --config study=smoke
	snakemake --lint --config study=tiny3

types: env ## mypy
	mypy

unit: env ## unit, contract and wiring tests
	pytest -n 2 -m "not slow"

smoke: env ## the smoke study end to end: same bytes in two directories, after kills, and on real files where present
	pytest -m slow

bench-train: env ## preference training against TRL, on this machine (about 10 minutes on 2 cores)
	python benchmarks/bench_train.py

bench-generate: env ## sampling against transformers.generate, with the SFT model of a finished `tiny`
	python benchmarks/bench_generate.py

bench-tables: env ## tables of a synthetic study of 100 arms: under 60 s and 1 GiB
	python benchmarks/bench_tables.py

bench-similarity: env ## score and filter 1,000,000 answers: speed and peak memory
	python benchmarks/bench_similarity.py

clean: ## remove the results of STUDY
	rm -rf results/$(STUDY)
