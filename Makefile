# Two commands for a fresh machine that has Python 3.11 (or newer) and make, and nothing else:
#   make figures   sets everything up, then draws the paper's figures, on the micro-world, into figures/
#   make test      sets everything up, then runs the tests
# Data outside the repository is looked for in $ALIGNER_PROBE_DATA (default: ../shared).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# Windows keeps a virtual environment's programs in another folder.
RUN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts/python.exe,bin/python)
READY := $(VENV)/.ready
JOBS ?= 2

.PHONY: figures test test-all style types lint docs lock clean help

help:
	@sed -n '2,4p' Makefile | cut -c3-
	@echo "  make test-all  also the slow tests; make lint: style and types; make docs: the documentation; make lock: new versions; make clean: remove $(VENV)"

# Of the micro-world's own runs; of the authors' weights as long as there are none.
SET := $(if $(wildcard artifacts/reproduction),,--published)

figures: $(READY)
	@echo "== figures: drawing the paper's figures into figures/"
	$(RUN) -m aligner_probe figures $(or $(ARGS),$(SET))

# Without bytecode each test process, and each command that a test starts, would compile what it imports anew.
test test-all: export PYTHONDONTWRITEBYTECODE =

test: $(READY) style
	@echo "== test: all tests but the slow ones, on $(JOBS) cores"
	$(RUN) -m pytest -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)

test-all: $(READY) style
	@echo "== test-all: all tests, on $(JOBS) cores"
	$(RUN) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# The tests begin with the style alone, because the types take longer than a minute.
lint: style types

style: $(READY)
	@echo "== style: ruff"
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Without the variable, pyright would ask the network whether there is a newer version.
types: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
types: $(READY)
	@echo "== types: pyright (a minute or two)"
	$(RUN) -m pyright --pythonpath $(RUN)

# Notebooks are executed for it, which takes some minutes the first time; warnings are errors.
docs: $(READY)
	@echo "== docs: building the documentation into docs/_build/html"
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html $(ARGS)
	@echo "open docs/_build/html/index.html"

$(READY): requirements.lock pyproject.toml
	@echo "== set-up 1/3: a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, found %d.%d; name one: make PYTHON=/path/to/python3.11" % v[:2])'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "== set-up 2/3: the packages of requirements.lock (a few minutes the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@echo "== set-up 3/3: aligner_probe itself, in place"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve pyproject.toml anew and write exact versions: names and versions only, so that they hold for any index and
# for any build of torch.
lock:
	@echo "== lock: resolving pyproject.toml in a new environment"
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet "torch==$(TORCH)" ".[notebooks,ray,docs,dev]"
	$(VENV)-lock/bin/python -m pip freeze --exclude aligner-probe | sed 's/+[a-z0-9.]*$$//' > requirements.lock
	rm -rf $(VENV)-lock

TORCH ?= 2.13.0

clean:
	rm -rf $(VENV) $(VENV)-lock
