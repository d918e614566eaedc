# Two commands do everything: `make demo` and `make test`. Both set up their own environment first.

MANIFEST ?= manifests/runs/demo.yaml
OUT ?= runs
BIN := .venv/bin
# For hours on a CPU: threads that wait leave their core to others, and freed memory is kept.
PATIENT := OMP_WAIT_POLICY=passive \
	GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000
QUIETLY := --cores all --quiet rules host --config
LEARNED := manifests/runs/demo-weights.yaml
MEASURED := manifests/runs/demo-figures.yaml
PROCESSES ?= 2  # that train the stylizer: a GPU each, or a core each
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test check setup clean demo-weights

demo: setup  ## run the embedded default: heads, styles, shards, stylizer, report
	@$(BIN)/snakemake $(QUIETLY) manifest=$(MANIFEST) out=$(OUT)
	@$(BIN)/python -c 'import sys; from pipeline.folders import open_folder; \
	  print("report:", open_folder(*sys.argv[1:]).report_path)' $(MANIFEST) $(OUT)

test: setup  ## all tests
	$(BIN)/pytest --numprocesses auto --dist loadfile

check: setup  ## formatters, linters, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy

setup: .venv/installed  ## the environment in .venv

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: 'apt install python3 python3-venv'\
	 (Debian, Ubuntu), 'brew install python' (macOS), or make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module:\
	 'apt install python3-venv' (Debian, Ubuntu), or make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo-weights: setup  ## train generator and stylizer anew: hours; goes on where it was stopped
	$(PATIENT) $(BIN)/python -m eg3d_renderer.demo.training $(OUT)/demo-weights --export eg3d_renderer/demo/weights
	$(BIN)/snakemake finetune --until render $(QUIETLY) manifest=$(LEARNED) out=$(OUT)
	$(BIN)/torchrun --nproc-per-node $(PROCESSES) -m pipeline.demo train $(LEARNED) $(OUT) stylize/demo
	$(BIN)/snakemake $(QUIETLY) manifest=$(MEASURED) out=$(OUT)
	$(BIN)/diffstyle360 swaps $(MEASURED) --out $(OUT)
	$(BIN)/python -m pipeline.demo card $(LEARNED) $(MEASURED) $(OUT) stylize/demo

clean:  ## remove the environment and caches; runs are kept
	rm -rf .venv .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
