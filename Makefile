# `make help` explains every target.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROFILE ?= paper
PROTOCOL ?=
SEEDS ?=
EXPERIMENT ?= digits
METHODS ?= smoothout,adasmoothout
LAUNCHER ?=
WORKERS ?= 2
ifneq ($(DATA_DIR),)
export SMOOTHOUT_DATA := $(DATA_DIR)
else
export SMOOTHOUT_DATA ?= data
endif
REPRODUCE = $(BIN)/python scripts/reproduce.py $(if $(PROTOCOL),scope.protocol=$(PROTOCOL)) scope.profile=$(PROFILE) \
  $(if $(SEEDS),'scope.seeds=[$(SEEDS)]') $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(ARGS)

VERDICTS = $(BIN)/python scripts/verdicts.py claim_scope.profile=$(PROFILE) \
  $(if $(PROTOCOL),'claim_scope.protocols=[$(PROTOCOL)]') $(if $(SEEDS),'claim_scope.seeds=[$(SEEDS)]') $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(ARGS)
RENDER = $(BIN)/python scripts/reproduce.py -m run=false $(if $(SEEDS),'scope.seeds=[$(SEEDS)]') $(ARGS)

QUICKSTART = folders.results=results/quickstart device=cpu

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-zA-Z0-9%-]*:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'
	@echo
	@echo '  Options: PROFILE=paper|short|smoke  PROTOCOL=authors_code|paper_text|authors_code_v1|keskar  DATA_DIR=data'
	@echo '           SEEDS=0,1,2 (without it, seed 0 is run and all recorded seeds are shown)'
	@echo "           ARGS='rows=[F1] device=cpu ...' (any setting of configs/reproduce.yaml)"
	@echo '           LAUNCHER=slurm (each missing job becomes a SLURM job: configs/hydra/launcher/README.md)'
	@echo '           PYTHON=python3.12 (creates the environment)  VENV=.venv'

.PHONY: quickstart
quickstart: $(VENV)/.ready ## install, show the recorded Table 2 of F1, then make a small one on digits (under 2 minutes)
	@$(BIN)/python scripts/reproduce.py table=table2 'rows=[F1]' run=false save=false
	@echo 'Its curves: results/figures/courses-f1-authors_code-paper.png. What the records show: results/findings.md'
	@echo; echo "Now the same on scikit-learn's digits, trained here:"
	@$(BIN)/python scripts/reproduce.py table=quickstart figure=quickstart $(QUICKSTART) 'scope.seeds=[0,1,2]' threads=1 \
	  tensorboard=false
	@$(BIN)/python scripts/verdicts.py claims=quickstart $(QUICKSTART)
	@sed -n '/^The verdicts/,/^## /p' results/quickstart/quickstart.md | grep '^|'
	@echo 'undecided: these seeds do not show it either way; results/quickstart/quickstart.md has the tests'

.PHONY: environment
environment: $(VENV)/.ready ## create the environment and install

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,integrations]'
	@touch $@

.PHONY: reproduce-%
reproduce-%: $(VENV)/.ready ## a table of the papers (reproduce-table2): plan, run what is missing, render
	@$(REPRODUCE) table=$*

.PHONY: show-%
show-%: $(VENV)/.ready ## render a table from the records, all recorded seeds; runs nothing
	@$(REPRODUCE) table=$* run=false

.PHONY: plan-%
plan-%: $(VENV)/.ready ## print the command behind every missing cell of a table, with estimated hours; runs nothing
	@$(REPRODUCE) table=$* plan=true

.PHONY: tables
tables: $(VENV)/.ready ## render every table in results/tables/ from the records; runs nothing
	@$(RENDER) 'table=glob(*,exclude=[none,quickstart,imagenette,controls-resnet8,copies,strengths,dropout,keskar-*,jastrzebski*,family*])'
	@$(RENDER) table=table2,chosen,family,jastrzebski1,jastrzebski-smoothout,jastrzebski2,jastrzebski2-resnet8 scope.protocol=paper_text
	@$(RENDER) table=table2 scope.protocol=authors_code_v1
	@$(RENDER) table=keskar-table2,keskar-table3,keskar-table4,keskar-table6,keskar-table7,keskar-robust scope.protocol=keskar
	@$(RENDER) table=keskar-table2 scope.protocol=keskar scope.profile=short
	@$(RENDER) table=table2 scope.precision=bfloat16
	@$(RENDER) table=table2,causes,copies scope.profile=short
	@$(RENDER) table=table2,table3,imagenette,controls-resnet8 scope.profile=short scope.precision=bfloat16

.PHONY: reproduce-figure%
reproduce-figure%: $(VENV)/.ready ## a figure of the papers (reproduce-figure3, reproduce-figure2-later): plan, run what is missing, draw
	@$(REPRODUCE) table=none figure=figure$*

.PHONY: show-figure%
show-figure%: $(VENV)/.ready ## draw a figure of the papers from the records; runs nothing
	@$(REPRODUCE) table=none figure=figure$* run=false

.PHONY: show-figure-%
show-figure-%: $(VENV)/.ready ## draw any figure of configs/figure/ (show-figure-f1) from the records; runs nothing
	@$(REPRODUCE) table=none figure=$* run=false

.PHONY: figure-%
figure-%: $(VENV)/.ready ## any figure of configs/figure/ (figure-f1, figure-atlas, figure-keskar7): plan, run what is missing, draw
	@$(REPRODUCE) table=none figure=$*

.PHONY: choose-strength
choose-strength: SEEDS = 0,1,2
choose-strength: $(VENV)/.ready ## choose the strength of the noise on held-out training images (EXPERIMENT=f1_mnist)
	@$(BIN)/python scripts/choose_strength.py -m experiment=$(EXPERIMENT) method=$(METHODS) $(if $(PROTOCOL),protocol=$(PROTOCOL)) \
	  profile=$(PROFILE) 'grid.seeds=[$(SEEDS)]' $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(ARGS)

.PHONY: figures
figures: $(VENV)/.ready ## draw every figure in results/figures/ from the records; runs nothing
	@$(REPRODUCE) table=none run=false 'figure=glob(*,exclude=[none,quickstart,*-later])' -m

.PHONY: notebooks
notebooks: $(VENV)/.ready ## run the notebooks on the records and keep their outputs
	@PYTHONPATH=tests $(BIN)/python -m helpers.notebooks

.PHONY: verdicts
verdicts: $(VENV)/.ready ## test the papers' claims on the records, into results/claims.md; runs nothing
	@$(VERDICTS)

.PHONY: pages
pages: $(VENV)/.ready ## write every page of claims in results/, for every profile; runs nothing
	@$(BIN)/python scripts/verdicts.py all_pages=true

.PHONY: report
report: $(VENV)/.ready ## write results/report/index.html, one page with everything, and results/report/site/ to host; runs nothing
	@$(BIN)/python scripts/report.py $(ARGS)

.PHONY: causes
causes: $(VENV)/.ready ## test what explains the large-batch gap and SmoothOut's gain (F1): run what is missing, into results/causes.md
	@$(VERDICTS) claims=causes run=true
	@$(BIN)/python scripts/reproduce.py table=causes run=false scope.profile=$(PROFILE)

.PHONY: confirmation
confirmation: $(VENV)/.ready ## run what the declared claims lack (F1, seeds 5 to 14: days on one core), into results/confirmation.md
	@$(VERDICTS) claims=confirmation run=true

.PHONY: data
data: $(VENV)/.ready ## download and check MNIST, CIFAR-10, CIFAR-100 and Fashion-MNIST
	@$(BIN)/python scripts/prepare_data.py -m data=mnist,cifar10,cifar100,fashion_mnist

.PHONY: bench
bench: $(VENV)/.ready ## measure speed on this device as ratios, into results/benchmarks/ (on an otherwise idle machine)
	@$(BIN)/python scripts/benchmark.py $(ARGS)

.PHONY: check-gpu
check-gpu: $(VENV)/.ready ## check that this machine's GPU trains correctly; needs no data, writes nothing (a few minutes)
	@$(BIN)/python scripts/check_gpu.py $(ARGS)

.PHONY: soak
soak: $(VENV)/.ready ## kill, stop and crowd the programs, feed them broken input; writes results/reliability.md (10 minutes)
	@PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

.PHONY: test
test: $(VENV)/.ready ## unit, integration and results tests, with WORKERS=2 workers
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/unit tests/integration tests/results tests/test_architecture.py

.PHONY: test-all
test-all: $(VENV)/.ready ## all tests: the system tests, which start and kill processes, too
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: lint
lint: $(VENV)/.ready ## ruff, mypy and the import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

.PHONY: clean
clean: ## remove caches and the quickstart's results; records, checkpoints and data stay
	rm -rf results/quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
