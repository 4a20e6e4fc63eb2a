# Tessera: each target first makes .venv with the tested releases (constraints.txt).
#   make demo     photographs -> tokens -> photographs, with a table, a grid and a plot
#   make test     the test suite                 make smoke   every recipe some steps, every example
#   make parity   official reference vectors     make lint    ruff and mypy
#   make bench    the benchmarks                 make setup   only the environment (all extras)
#   make claims   what papers claim, shown small; ONLY=tail_drop for one, CLAIMS_ARGS for options
# PYTHON picks the interpreter (3.11 or newer); TORCH_INDEX_URL picks another build of torch, for
# example TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu; PYTEST_ARGS goes to pytest,
# JOBS test processes of one thread each work side by side.

PYTHON ?= python3
TORCH_INDEX_URL ?=
PYTEST_ARGS ?=
JOBS ?= 2
OUT ?= tessera_demo
ONLY ?=
CLAIMS_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# A file's tests stay together: they share their models.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
EXTRA_INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))
INPUTS := pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: setup demo test smoke parity lint bench claims clean

setup: $(VENV)/.setup-dev

demo: $(VENV)/.setup-demo
	$(BIN)/tessera demo --output $(OUT) --force

test: $(VENV)/.setup-test
	$(PYTEST) -m "not smoke" $(PYTEST_ARGS)

smoke: $(VENV)/.setup-test
	$(PYTEST) -m smoke $(PYTEST_ARGS)

parity: $(VENV)/.setup-test
	$(PYTEST) tests/parity $(PYTEST_ARGS)

lint: $(VENV)/.setup-lint
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

bench: $(VENV)/.setup-bench
	$(BIN)/tessera bench all

claims: $(VENV)/.setup-claims
	$(BIN)/python -m claims $(if $(ONLY),--only $(ONLY)) $(CLAIMS_ARGS)

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis

# One sentence instead of a traceback where Python is too old or cannot make environments.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	  "Tessera needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1); name another one with: make PYTHON=python3.12" \
	  >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo \
	  "$(PYTHON) has no venv module; install it (Debian and Ubuntu: apt-get install python3-venv) and run make again" \
	  >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# torch comes first and alone: with TORCH_INDEX_URL from that index, else from wherever pip looks.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "installing torch (the largest part; minutes on a slow line)"
	@$(PIP) $(if $(TORCH_INDEX_URL),--no-deps --index-url $(TORCH_INDEX_URL)) \
	  "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.setup-demo: EXTRAS := audio,eval,demo
$(VENV)/.setup-test: EXTRAS := train,audio,eval,demo,transformers,test
$(VENV)/.setup-lint: EXTRAS := train,audio,eval,demo,transformers,test,lint
$(VENV)/.setup-bench: EXTRAS := train,audio,demo,bench
$(VENV)/.setup-claims: EXTRAS := train,audio,eval,demo
$(VENV)/.setup-dev: EXTRAS := dev
$(VENV)/.setup-%: $(INPUTS) $(VENV)/.torch | $(BIN)/python
	@echo "installing tessera-tokenizers[$(EXTRAS)]"
	@$(PIP) $(EXTRA_INDEX) -e ".[$(EXTRAS)]"
	@$(if $(or $(findstring eval,$(EXTRAS)),$(findstring dev,$(EXTRAS))),$(PIP) pesq >/dev/null 2>&1 || echo "pesq did not build here; PESQ shows -")
	@touch $@
