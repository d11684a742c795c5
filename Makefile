# Everything a developer or a curious visitor runs. `make` alone prints the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
BENCH_STAMP := $(VENV)/.bench-stamp

# Tests wait more than they work: a few files at once take little more than half the time.
TESTS_AT_ONCE ?= 3

# 3.13 and later are out because the demo's OCR and Triton wheels do not support them.
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; \
	then echo "$$name"; break; fi; done)

.PHONY: help setup demo test check format fuzz bench soak crash steady lock requirements sbom audit clean distclean

help: ## Print this list
	@printf 'Targets:\n'
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Create .venv and install everything into it (once; again when pyproject.toml changes)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo 'No Python 3.11 or 3.12 found (looked for python3.11, python3.12, python3).' >&2; \
		echo 'Install one, or name it: make setup PYTHON=/path/to/python3.11' >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
		echo "$(PYTHON) is not Python 3.11 or 3.12." >&2; exit 1; }
	@if [ ! -x $(BIN)/python ]; then \
		echo "Creating $(VENV) with $$("$(PYTHON)" -V) ($(PYTHON))"; \
		"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
			echo 'Could not create the virtual environment. On Debian and Ubuntu: apt install python3-venv' >&2; \
			exit 1; }; fi
	@echo 'Installing the gateway, its tests, and for the demo a Triton server and an OCR engine.'
	@echo 'About 250 MB are downloaded the first time; that takes from one to a few minutes.'
	$(BIN)/python -m pip install --no-input --constraint constraints.txt --editable '.[dev,triton,pdf,redis,otel,demo]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
		echo 'OpenCV finds no libGL here: putting its headless build in place.'; \
		version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))'); \
		$(BIN)/python -m pip install --no-input --no-deps --force-reinstall "opencv-python-headless==$$version"; \
		$(BIN)/python -c 'import cv2'; }
	@touch $@

demo: $(STAMP) ## Start Triton, two simulated APIs and the gateway, and show them at work (ONCE=1: end by itself)
	@exec $(BIN)/python -m deploy.demo.run

test: $(STAMP) ## Run all tests; every branch of the pure modules must be covered
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder --cov --cov-report= $(ARGS)
	$(BIN)/python -m coverage report --show-missing --skip-covered --fail-under=100

check: $(STAMP) ## Lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Put the code into the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

fuzz: $(STAMP) ## Look for bytes that break a reader of them (TARGET=name: one of the readers; SECONDS=60 for each)
	$(BIN)/python -m pip install --no-input --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(TARGET) --seconds $(or $(SECONDS),60)

bench: $(BENCH_STAMP) ## Measure the gateway beside other proxies (SCENARIO=name: one scenario; QUICK=1: a quick look)
	@SCENARIO='$(SCENARIO)' QUICK='$(QUICK)' $(BIN)/python -m tests.bench

$(BENCH_STAMP): $(STAMP)
	@echo 'Installing what the gateway is measured beside; once, about 200 MB.'
	$(BIN)/python -m pip install --no-input --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m tests.bench.install
	@touch $@

soak: $(STAMP) ## Run 20,000 streams, half of them given up, and see what the gateway keeps of them
	$(BIN)/python -m tests.bench.soak $(ARGS)

crash: $(STAMP) ## Kill 200 replicas while they work, with each store, and see whether anything is lost
	$(BIN)/python -m tests.bench.crash $(ARGS)

steady: $(STAMP) ## Measure how quickly refusals are answered, and whether streams notice
	$(BIN)/python -m tests.bench.steady

lock: ## Resolve the newest allowed versions: constraints.txt, and with hashes deploy/requirements*.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 or 3.12 found.' >&2; exit 1; }
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	"$(PYTHON)" -m venv "$$scratch"; \
	"$$scratch/bin/python" -m pip install --no-input --quiet --editable '.[dev,triton,pdf,redis,otel,demo,bench,fuzz]'; \
	{ echo '# Every version that `make setup` installs, direct and transitive. Written by `make lock`.'; \
	"$$scratch/bin/python" -m pip freeze --exclude-editable; } > constraints.txt; \
	echo "constraints.txt: $$(grep -c == constraints.txt) packages"; \
	"$$scratch/bin/python" -m deploy.locks

requirements: $(STAMP) ## Write what the image installs, with hashes, from constraints.txt: deploy/requirements*.txt
	@$(BIN)/python -m deploy.locks

sbom: $(STAMP) ## Write what the image is made of, as CycloneDX, into dist/ (EXTRAS="redis otel": with those)
	@$(BIN)/python -m deploy.sbom $(EXTRAS)

audit: $(STAMP) ## Ask whether anything that the image installs has a known hole
	@$(BIN)/python -m deploy.audit

clean: ## Remove what tests, checks and the demo leave behind
	rm -rf .demo .coverage htmlcov .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache dist build
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Also remove the virtual environment
	rm -rf $(VENV)
