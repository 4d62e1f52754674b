# Needs make and Python 3.10 or later; everything else goes into .venv.

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin

DEMO_CONFIG := configs/m2at_resnet18-w16_digits.py
DEMO_DIR := work_dirs/demo
# The newest best checkpoint. A name that ends in -<8 hex digits> is a copy
# made for publishing, not a checkpoint of the run.
DEMO_BEST = ls -t $(DEMO_DIR)/best_*.pth | grep -Ev -e '-[0-9a-f]{8}\.pth$$' \
	| head -n 1

# Pictures are written to files; no screen is needed.
export MPLBACKEND := Agg
# foolbox, which the tests compare with, imports even where git is missing.
export GIT_PYTHON_REFRESH := quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all check-configs docs lint clean

help:
	@echo 'make demo      train, attack and picture M2AT on the embedded digits'
	@echo 'make test      lint, check types and run all tests but the slow ones'
	@echo 'make test-all  the same with the slow tests'
	@echo 'make check-configs  try M2AT on a config of each family of mmpretrain'
	@echo 'make docs      build the documentation site into site/'
	@echo 'make lint      lint and check types only'
	@echo 'make clean     remove build leftovers and caches'
	@echo 'Set PYTHON to choose the interpreter that $(VENV) is made with.'

demo: $(VENV)/.installed-demo
	@echo '== Demo 1/4: removing the previous demo run, $(DEMO_DIR)'
	rm -rf $(DEMO_DIR)
	@echo '== Demo 2/4: training with M2AT'
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	@test -n "$$($(DEMO_BEST))" || \
		{ echo 'Training left no best_*.pth in $(DEMO_DIR).' >&2; exit 1; }
	@echo '== Demo 3/4: attacking the best checkpoint'
	$(BIN)/python tools/test.py $(DEMO_CONFIG) "$$($(DEMO_BEST))" \
		--attacks clean fgsm pgd20 cw20 --out $(DEMO_DIR)/results.json
	@echo '== Demo 4/4: drawing the picture'
	$(BIN)/python tools/visualize.py $(DEMO_CONFIG) "$$($(DEMO_BEST))" \
		--out $(DEMO_DIR)/m2at.png
	@echo '== Demo done. Table: $(DEMO_DIR)/results.json'
	@echo '   Picture: $(CURDIR)/$(DEMO_DIR)/m2at.png'

test: lint
	@echo '== Tests (all but those marked slow)'
	$(BIN)/python -m pytest -n auto -m 'not slow' $(PYTEST_ARGS)

test-all: lint
	@echo '== Tests (all)'
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

check-configs: $(VENV)/.installed-test
	@echo '== One config of each family'
	$(BIN)/python tools/check_configs.py --per-family 1

lint: $(VENV)/.installed-test
	@echo '== Lint'
	$(BIN)/python -m ruff check .
	@echo '== Format'
	$(BIN)/python -m ruff format --check .
	@echo '== Types'
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs
	@echo '== Documentation'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo '== Done: $(CURDIR)/site/index.html'

clean:
	@echo '== Removing build leftovers and caches; keeping $(VENV), data and work_dirs'
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find m2at_mm configs tools tests -type d -name __pycache__ -prune \
		-exec rm -rf {} +

# Installed again only when the requirements may have changed.
$(VENV)/.installed-%: setup.py pyproject.toml | $(BIN)/pip
	@echo '== Installing m2at_mm[$*] into $(VENV)'
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[$*]'
	@# It pins a version of requests that mkdocs-material does not take.
	@[ '$*' != test ] || $(BIN)/python -m pip install \
		--disable-pip-version-check --no-deps 'torchattacks>=3.5.1'
	@touch $@

$(BIN)/pip:
	@echo '== Making $(VENV) with $(PYTHON)'
	@command -v $(PYTHON) > /dev/null || \
		{ echo 'm2at_mm needs Python 3.10 or later, but there is no' \
		'"$(PYTHON)". Name one: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'm2at_mm needs Python 3.10 or later, but "$(PYTHON)" is older.' \
		'Name another one: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# Older versions cannot make this kind of editable install.
	$(BIN)/python -m pip install --disable-pip-version-check 'pip>=21.3'
