# `make demo` trains a robot, `make demo-language` a language model, `make test` runs the tests; each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Without bytecode every process of the tests compiles their sources, and ours, again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-language test test-slow check docs screenshots plotly format clean

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Proximo needs Python 3.11 or newer, this is %d.%d: make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: $(READY)  ## train HalfCheetah to a return above 2,000, evaluate it, and say where everything is
	$(BIN)/proximo train HalfCheetah-v5 --preset tuned --steps 4e5 --seed 0 --run runs/demo
	$(BIN)/proximo evaluate runs/demo
	@echo 'curves: $(BIN)/tensorboard --logdir runs/demo/tensorboard'
	@echo 'use it: proximo.load("runs/demo").act(observation)'

demo-language: $(READY)  ## teach a language model what people like, and have a judge compare before and after
	$(BIN)/proximo rlhf all --preset movie-sentiment-demo --run runs/demo-language
	$(BIN)/proximo rlhf evaluate runs/demo-language --count 192

test: $(READY)  ## run the tests, in one process more than there are cores (four at most), of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: $(READY)  ## the long measurements, which smaller tests stand for in `make test`
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m slow
	PROXIMO_ALL_CASES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/*/*/test_fuzz.py

check: $(READY)  ## what CI checks beside the tests: style, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## the site, in site/: open site/index.html; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshots: $(READY)  ## the pictures of console, report and live page in docs/pictures, of real short trainings
	$(BIN)/python benchmarks/screenshots.py

plotly:  ## build the part of plotly.js that the pages need anew; needs node, npm and a network
	npm install --prefix build/plotly --silent --no-audit --no-fund plotly.js@4.1.1 esbuild@0.28.2
	cd build/plotly && NODE_PATH=node_modules npx esbuild ../../src/proximo/views/plotly/bundle.js --bundle --minify --target=es2016 \
	  --format=iife --global-name=Plotly --define:global=window --define:define.amd=false --loader:.css=empty --log-level=error \
	  --banner:js='/* plotly.js v4.1.1, MIT: lines, bars and heatmaps; see bundle.js */' --outfile=../../src/proximo/views/plotly/plotly.min.js
	cp build/plotly/node_modules/plotly.js/LICENSE src/proximo/views/plotly/LICENSE

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
