# Two commands from a fresh clone: `make demo` shows everything working, `make test` passes the tests. Each makes
# .venv first when it is missing, with nothing but Python and pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two processes that share nothing, a file's tests in one of them; one thread each, since they would fight for cores.
# One that dies is a failure at once: pytest-xdist waits for ever for the files of one that it replaced.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0
READY  := $(VENV)/.ready
BENCHMARKS := export manifest promotion scoring student sweep triage
PINS   := $(VENV)/pins.txt
NEWEST := .venv-newest
PINNED := tests/test_project_files.py::test_the_environment_that_runs_the_tests_is_the_pinned_one
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test fast integration browser screenshots newest lint types format reference bench clean
.DELETE_ON_ERROR:

demo: $(READY)                 ## from nothing to a leaderboard, through `mlflow run`
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mlflow run . -e demo --env-manager local

test: $(READY)                 ## every test, slow ones included
	$(PYTEST)

fast: $(READY)                 ## all but the slow tests
	$(PYTEST) -m "not slow"

# Downloads what conda.yaml lists into an empty home; FER_INTEGRATION_HOME=FOLDER keeps that home for the next time.
integration: $(READY)          ## every entry point as a user starts it, in an environment that `mlflow run` makes
	$(PYTEST) --durations 0 --durations-min 5 tests/integration

# For a scheduled job: what conda.yaml pins may be behind. Torch and torchvision are resolved together, which keeps them a pair.
newest: export PATH := $(CURDIR)/$(NEWEST)/bin:$(PATH)
newest: pyproject.toml         ## the fast tests with the newest release of every dependency, in an environment of their own
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -c 'import re, tomllib; p = tomllib.load(open("$<", "rb"))["project"]; \
	  every = [*p["dependencies"], *sum(p["optional-dependencies"].values(), [])]; \
	  print(*(re.match("[][\\w.-]+(>=[\\w.]+)?", each)[0] for each in every if "fer-mlflow" not in each), sep="\n")' > $(NEWEST)/names.txt
	$(NEWEST)/bin/python -m pip install --disable-pip-version-check --quiet --requirement $(NEWEST)/names.txt
	$(NEWEST)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	$(subst $(BIN),$(NEWEST)/bin,$(PYTEST)) -m "not slow" --deselect $(PINNED)

# Skipped, with the reason, where no Chromium is installed.
browser: $(READY)              ## MLflow's UI in a real browser; a part of `make integration`
	$(PYTEST) --durations 5 tests/integration/test_browser.py

# docs/images/leaderboard.png, compare.png and run.png, of the runs of `make demo`.
screenshots: $(READY)          ## pictures of MLflow's UI for the docs
	PYTHONPATH=tests $(BIN)/python -m integration.screenshots mlflow.db docs/images

lint: $(READY)                 ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)                ## types of the package
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(READY)             ## docs/options.md, from the code
	$(BIN)/python -m fer_mlflow.cli.reference > docs/options.md

bench: $(READY)                ## the numbers in docs/speed.md, each held to its limit
	@status=0; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || status=1; done; exit $$status

# conda.yaml is the one list of exact versions; pip takes it as constraints.
$(READY): pyproject.toml conda.yaml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	sed -n 's/^ *- \([A-Za-z0-9_.-]*==.*\)$$/\1/p' conda.yaml > $(PINS)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(PINS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(NEWEST) build *.egg-info
