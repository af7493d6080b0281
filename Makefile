# make demo: from nothing to maps, tables and their comparison with the truth
# make test: the whole test suite in an environment of its own
# make test-system: a SLURM cluster, containers and failures made on purpose; as root on Debian, else much is skipped,
#   as the last lines say (SYSTEM="-m 'not slow'": what needs no whole run and no image, in minutes).
#   QSMALS_APPTAINER: the command of Apptainer; QSMALS_BUILD: a command in place of docker build (CONTEXT TAG OPTIONS);
#   QSMALS_IMAGE: an image that is there already, in place of one of this checkout

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
SHELL := /bin/bash

.PHONY: demo test test-system lint clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "qsmals needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[tests,lint]'
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/qsmals-simulate $(DEMO)/bids --voxel-size-mm 1.5 1.5 1.5
	$(VENV)/bin/qsmals $(DEMO)/bids $(DEMO)/derivatives participant
	$(VENV)/bin/qsmals $(DEMO)/bids $(DEMO)/derivatives group
	$(VENV)/bin/python benchmarks/compare_with_truth.py $(DEMO)/bids $(DEMO)/derivatives
	@echo; echo "Open these pages in a browser:"; ls -1 $(abspath $(DEMO))/derivatives/sub-*.html $(abspath $(DEMO))/derivatives/group.html

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

test-system: $(VENV)/installed
	tests/system/prepare.sh
	$(VENV)/bin/python -m pytest tests/system -rs $(SYSTEM)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
