# Needs Python 3.11 or newer, git and make; everything else is put into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Neither DVC nor MLflow reports home. Idle OpenMP threads spin shortly, then sleep, and freed memory is kept, as in
# stages/run.
export DVC_NO_ANALYTICS := true
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1
export GOMP_SPINCOUNT := 1000
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 100000000000
export MALLOC_TOP_PAD_ := 100000000

.PHONY: demo test test-slow test-long check readers docs results notebook screenshots lock oldest faults clean

demo: $(VENV)  ## fresh clone -> finished pipeline on the embedded data
	@# A ZIP download is no git repository; DVC has to be told to do without.
	@if LC_ALL=C git rev-parse 2>&1 | grep -Eq 'not a git repository|not found'; then $(BIN)/dvc config --local core.no_scm true; fi
	$(BIN)/dvc repro
	@echo
	$(BIN)/harveyseg summary
	@echo
	@$(BIN)/harveyseg table
	@echo
	@echo "summary:      file://$(CURDIR)/summary.html"
	@echo "MLflow:       $(BIN)/harveyseg ui, which prints and opens the address"
	@echo "pictures:     data/ensemble/sheet.png, data/predictions/<model>-<fold>/"
	@echo "all columns:  data/reports/comparison.md"
	@echo "submission:   data/submission/submission.csv"
	@echo "what next:    $(BIN)/harveyseg status"

# A module on each core, at most four at a time.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(VENV)  ## the tests and the examples in docstrings, but for those marked slow: ten minutes on two cores
	$(PYTEST) -m "not slow"

test-slow: $(VENV)  ## the tests marked slow: whole pipelines, real servers, killed processes; longer still
	$(PYTEST) -m "slow and not long"

test-long: $(VENV)  ## the slow tests that take minutes each, which CI leaves out; their outcome goes to benchmarks/results
	$(BIN)/python benchmarks/long_tests.py

check: $(VENV)  ## style, types, and which package may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An environment of its own: GeoDeep is under the AGPL, and Deepness pins an onnxruntime that needs an older numpy.
readers: $(VENV)  ## the programs that exported ONNX files are for, in .venv/readers: their tests run only then
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/readers
	$(BIN)/uv pip install --quiet --python $(VENV)/readers/bin/python geodeep==0.9.13 onnxruntime==1.17.0 'numpy<2'
	touch $(VENV)/readers/.made

docs: $(VENV)  ## the site in docs/_build; fails on a broken link or an outdated page of settings
	$(BIN)/python docs/settings_page.py --check
	$(BIN)/sphinx-build -c docs --jobs auto --fail-on-warning --keep-going --nitpicky --quiet . docs/_build
	@echo "docs/_build/docs/index.html"

results: $(VENV)  ## RESULTS.md and its figures, from the exported runs of the report's studies, as far as they have run
	$(BIN)/harveyseg results $(foreach runs,$(sort $(wildcard benchmarks/results/studies-*.jsonl.xz)),--runs $(runs)) > /dev/null

notebook: $(VENV)  ## runs docs/first_hour.ipynb and keeps its results: after a change of it, or of what it calls
	$(BIN)/python docs/notebook.py

screenshots: $(VENV)  ## the pictures of pages in docs/, from the finished project here; needs Chromium
	PYTHONPATH=tests $(BIN)/python docs/screenshots.py

# The stamp is newer than what it was made from, so a second call does nothing. Compiling once halves the seconds that every
# stage spends importing, also where Python is told not to write next to its files.
$(VENV): $(VENV)/.made
$(VENV)/.made: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet 'uv>=0.5'
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

lock: $(VENV)  ## write requirements.lock again, for every platform and Python
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --extra dev --extra onnx --extra ray \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    pyproject.toml --output-file requirements.lock

oldest: $(VENV)  ## the fast tests on Python 3.11 to 3.13, with the oldest dependencies allowed and with the lock's (6 GB each)
	$(BIN)/python benchmarks/oldest.py --dependencies lowest-direct
	$(BIN)/python benchmarks/oldest.py --dependencies lock
	PYTHONPATH=tests $(BIN)/python benchmarks/faults.py page

faults: $(VENV)  ## breaks things on purpose and writes docs/reliability.md again: 2 hours, as root on Linux
	for part in inputs:200 kills:108 twice:3 server:10 server-disk:1 database:12 disk:60 disk-stages:22 read-only:44 tampering:60; do \
	    PYTHONPATH=tests $(BIN)/python benchmarks/faults.py $${part%:*} --again --trials $${part#*:} || exit 1; done

clean:  ## everything that the pipeline and the tests made; the environment and MLflow's runs stay
	find data -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf summary.html .checkpoints .locks .mypy_cache .ruff_cache .pytest_cache
