# make demo    checkpoint -> engine bundle -> poses on a clip, from nothing but Python 3.11+
# make test    install and run the tests
# make test-fast  those that take no longer than a second or so each: two minutes instead of ten
# make test-gpu  those that need a GPU
# make fuzz    broken and hostile input to everything that reads it, for two hours
# make check   lint and types
# make docs    build the site into build/site, strictly: broken links are errors
# make tiny    draw the synthetic sets and train the checkpoint that comes with the package (hours on 2 cores); run it
#              again to go on after a stop
# make photos  train tiny-vitpose-photos on photographs in data/stills and on drawn people (an hour on one core)
# make coverage, make clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint tests/constraints.txt

.PHONY: demo test test-fast test-gpu fuzz check docs tiny photos coverage clean
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

# A backbone from nothing; the same on twice as many people; SDTC of one frame on top of it, frozen; SDTC of five frames,
# all of it trainable, first with masks, then without.
TRAIN := $(BIN)/sdtc-train
RUNS := runs/train
tiny: $(VENV)/.test
	$(BIN)/sdtc-synth --set train --clips 800
	$(BIN)/sdtc-synth --set train --clips 1600 --frames 20 --output data/synthetic-short
	$(BIN)/sdtc-synth --set val
	$(TRAIN) tiny-vitpose-synthetic --resume --output $(RUNS)/tiny-vitpose-first
	$(TRAIN) tiny-vitpose-synthetic --resume --output $(RUNS)/tiny-vitpose --set train.root=data/synthetic-short \
		--set backbone=$(RUNS)/tiny-vitpose-first/best.pth --set epochs=10 --set learning_rate=2.5e-3
	$(TRAIN) tiny-frame-synthetic --resume --output $(RUNS)/tiny-frame --set backbone=$(RUNS)/tiny-vitpose/best.pth
	$(TRAIN) tiny-synthetic --resume --output $(RUNS)/tiny-masked --set load_from=$(RUNS)/tiny-frame/best.pth \
		--set model.reconstruction.mask_ratio=0.5 --set learning_rate=1e-3
	$(TRAIN) tiny-synthetic --resume --output $(RUNS)/tiny --set load_from=$(RUNS)/tiny-masked/best.pth
	mkdir -p sdtc/weights docs/tiny
	for name in tiny-vitpose tiny; do cp $(RUNS)/$$name/best.pth sdtc/weights/$$name.pth || exit; done
	for name in tiny-vitpose-first tiny-vitpose tiny-frame tiny-masked tiny; do \
		cp $(RUNS)/$$name/log.csv docs/tiny/$$name.csv && cp $(RUNS)/$$name/curves.png docs/tiny/$$name.png || exit; \
	done

# First on photographs alone, for the new resolution; then with drawn people, so that they are not forgotten.
photos: $(VENV)/.test
	$(BIN)/sdtc-synth --set train --clips 400 --frames 20 --output data/synthetic-short
	$(BIN)/sdtc-synth --set val
	$(TRAIN) tiny-vitpose-photos --resume --output $(RUNS)/photos-first --set 'train={root: data/stills, split: train}' \
		--set 'val={root: data/stills, split: val}' --set epochs=3 --set batch_size=64 --set warmup_steps=50 \
		--set augmentation.half_body_chance=0.05 --set augmentation.still_clip=~
	$(TRAIN) tiny-vitpose-photos --resume --output $(RUNS)/photos --set backbone=~ \
		--set load_from=$(RUNS)/photos-first/best.pth
	cp $(RUNS)/photos/best.pth sdtc/weights/tiny-vitpose-photos.pth
	cp $(RUNS)/photos/log.csv docs/tiny/tiny-vitpose-photos.csv

coverage: $(VENV)/.test
	$(BIN)/coverage run -m pytest && $(BIN)/coverage report

clean:
	rm -rf $(VENV) build dist runs *.egg-info
