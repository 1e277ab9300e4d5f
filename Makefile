# make demo    checkpoint -> engine bundle -> poses on a clip, from nothing but Python 3.11+
# make test    install and run the tests
# make test-fast  those that take no longer than a second or so each: two minutes instead of ten
# make test-gpu  those that need a GPU
# make fuzz    broken and hostile input to everything that reads it, for two hours
# make check   lint and types
# make docs    build the site into build/site, strictly: broken links are errors
# make tiny    train the checkpoints that come with the package, on drawn people and on the photographs in data/stills
#              (hours on 2 cores); run it again to go on after a stop
# make coverage, make clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt

.PHONY: demo test test-fast test-gpu fuzz check docs tiny coverage clean
.DELETE_ON_ERROR:

$(VENV)/.demo: setup.py tests/constraints.txt
	@echo "installing into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[cpu,export]'
	@touch $@

$(VENV)/.test: setup.py tests/constraints.txt
	@echo "installing into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[cpu,openvino,export,kernels,train,dev,docs]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py --output runs/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow"

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds 7200

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy knows no package_dir: show it the installed layout
	@rm -rf build/typing && mkdir -p build/typing/sdtc
	@ln -s $(CURDIR)/sdtc/* $(CURDIR)/export $(CURDIR)/kernels $(CURDIR)/runtime build/typing/sdtc/
	cd build/typing && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p sdtc

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# A single-frame network from nothing, on drawn people in small crops; the same in larger crops, on photographs too; SDTC
# of one frame on top of it, frozen; SDTC of five frames, all of it trainable. Each process keeps 10 GB of images.
PROCESSES ?= 2
PRECISION ?= $(shell grep -qs amx_bf16 /proc/cpuinfo && echo bf16 || echo no)
TRAIN := $(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) -m sdtc.training.cli
CHANGES := --set precision=$(PRECISION) --set threads=1
RUNS := runs/train
tiny: $(VENV)/.test
	$(BIN)/sdtc-synth --set train --clips 1000 --frames 20 --output data/synthetic-short
	$(BIN)/sdtc-synth --set val
	$(TRAIN) tiny-vitpose-synthetic $(CHANGES) --resume --output $(RUNS)/tiny-vitpose-synthetic
	$(TRAIN) tiny-vitpose $(CHANGES) --resume --output $(RUNS)/tiny-vitpose --set load_from=null \
		--set backbone=$(RUNS)/tiny-vitpose-synthetic/best.pth
	$(TRAIN) tiny $(CHANGES) --resume --output $(RUNS)/tiny-frame --set load_from=null \
		--set backbone=$(RUNS)/tiny-vitpose/best.pth --set model.delta=0 --set model.backbone.frozen=true \
		--set learning_rate=4e-3 --set batch_size=64
	$(TRAIN) tiny $(CHANGES) --resume --output $(RUNS)/tiny --set load_from=$(RUNS)/tiny-frame/best.pth
	mkdir -p sdtc/weights docs/tiny
	for name in tiny-vitpose tiny; do cp $(RUNS)/$$name/best.pth sdtc/weights/$$name.pth || exit; done
	for name in tiny-vitpose-synthetic tiny-vitpose tiny-frame tiny; do \
		cp $(RUNS)/$$name/log.csv docs/tiny/$$name.csv && cp $(RUNS)/$$name/curves.png docs/tiny/$$name.png || exit; \
	done

coverage: $(VENV)/.test
	$(BIN)/coverage run -m pytest && $(BIN)/coverage report

clean:
	rm -rf $(VENV) build dist runs *.egg-info
