# Everything runs in .venv, which the first command makes and later ones reuse.
# PYTHON picks the interpreter (3.10 or newer) the environment is made from.

PYTHON ?= python3
BIN := .venv/bin
OUT ?= cfcam-demo
EVALUATION ?= cfcam-evaluation
COCO ?= $(wildcard ../shared/data/coco)
PHOTOS ?= $(wildcard ../shared/data/imagenet)
SEED ?= 1

.PHONY: demo docs evaluate evaluate-photos test quick fuzz lint format install bench kills survey gpu-check clean help

help:
	@echo "make demo     explain real photos, write $(OUT)/contact_sheet.png"
	@echo "make docs     the pages of docs as a site, into build/site"
	@echo "make test     ruff, mypy and pytest"
	@echo "make quick    the tests that matter for most changes, in parallel, in a minute and a half"
	@echo "make fuzz     damaged images, shards, manifests and data sets for ten minutes; SEED=N for others"
	@echo "make evaluate methods compared on real photos, into bench/results/evaluation.json and $(EVALUATION)"
	@echo "make evaluate-photos COCO=DIR PHOTOS=DIR  methods compared on real photos in half an hour, into bench/results/scenes.json"
	@echo "make bench    every benchmark of speed, most of an hour, into bench/results/"
	@echo "make survey   which layer is chosen of some 450 models, half an hour, into bench/results/models.json"
	@echo "make kills    a run killed 100 times, what is lost of it into bench/results/kills.json"
	@echo "make gpu-check  tests and benchmarks on an NVIDIA GPU, with PYTHON's own packages"
	@echo "make install  .venv with the package and its dependencies only"
	@echo "make lint     ruff and mypy;  make format: apply ruff's format"
	@echo "make clean    remove .venv and everything generated"

demo: .venv/.demo
	$(BIN)/cfcam demo --out $(OUT)

evaluate: .venv/.evaluate
	$(BIN)/python -m bench.evaluation --out $(EVALUATION)

# Photos and masks are not part of the package: bench/scenes.py says where they are. Goes on where it was stopped.
evaluate-photos: .venv/.evaluate
	$(BIN)/python -m bench.scenes --coco "$(COCO)" --photos "$(PHOTOS)" --out $(EVALUATION)/scenes

# Strictly: a link without a file or a page that is in no menu is an error.
docs: .venv/.dev
	$(BIN)/mkdocs build --strict

test: .venv/.dev lint
	$(BIN)/python -m pytest

# All but the tests marked slow, in as many processes as there are cores.
quick: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 -m "not slow" tests

fuzz: .venv/.dev
	$(BIN)/python -m tests.helpers.fuzz --seconds 600 --seed $(SEED)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.bench
	for name in throughput precision stages scaling memory discrimination dataset store scale; do \
		$(BIN)/python -m bench.$$name || exit 1; \
	done

# Goes on where it was stopped. The page is made of the results.
survey: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.models
	$(BIN)/python -m bench.models_page
	$(BIN)/python -m bench.readme

# Takes some ten minutes.
kills: .venv/.dev
	CFCAM_KILLS=100 CFCAM_KILLS_FILE=$(CURDIR)/bench/results/kills.json OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -s --timeout 7200 tests/dataset/test_kills.py -k random_moments

# Needs no environment of its own: a machine with PyTorch for its GPU, scikit-learn, OpenCV, pytest and, from
# `python -m bench.gpu_wheels` where there is no network, kornia. Called again it does what is left.
gpu-check:
	$(PYTHON) -m bench.gpu_check

install: .venv/.package

# A stamp is newer than pyproject.toml when the environment matches it.
.venv/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, got " + sys.version.split()[0] + "; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.package: .venv/.python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	touch $@

.venv/.demo: .venv/.python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[demo]'
	touch $@

.venv/.evaluate: .venv/.python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[demo,evaluate]'
	touch $@

# The libraries that tests compare with ask for opencv-python, whose files would replace the headless build's.
.venv/.dev: .venv/.python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[demo,dev,evaluate]'
	$(BIN)/python -m pip install -q --no-deps 'grad-cam>=1.5.7' 'torchcam>=0.5' 'quantus>=0.6' 'captum>=0.7'
	touch $@ .venv/.demo .venv/.evaluate

.venv/.bench: .venv/.dev
	$(BIN)/python -m pip install -q 'captum>=0.7'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis cfcam-demo cfcam-evaluation
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
