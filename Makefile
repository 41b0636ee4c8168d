# Everything a newcomer needs. `make demo` and `make test` set up .venv by themselves: the demo with what users need, the rest
# with what is tested and checked with too.
PYTHON ?= python3
PIP_ARGS ?=
# Where torch comes from; empty is pip's default, which on Linux is the large CUDA build
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
# The packages for domains, each a distribution of its own. By themselves they need nothing that latentopt does not; what their
# figures are compared with in tests is large, and for `make test` alone. `make test` tests them in a process of their own.
PACKAGES := plugins/latentopt-materials plugins/latentopt-airfoils plugins/latentopt-lpips
# One thread: cores are often shared, and two threads can be several times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check docs bench soak fuzz clean

$(VENV)/.ready: pyproject.toml constraints.txt $(PACKAGES:%=%/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e . $(PACKAGES:%=-e %)
	touch $@

$(VENV)/.tools: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]' $(PACKAGES:%=-e '%[dev]')
	touch $@

demo: $(VENV)/.ready
	rm -rf demo-out
	$(BIN)/latentopt demo --out demo-out

check: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes at a time, one a core. The second's words come at the end.
test: check
	@($(BIN)/python -m pytest -q tests/std plugins/latentopt-tv && $(BIN)/python -m pytest -q $(PACKAGES)) \
		> $(VENV)/second.log 2>&1 & second=$$!; \
	$(BIN)/python -m pytest -q tests --ignore=tests/std; first=$$?; \
	wait $$second; second=$$?; cat $(VENV)/second.log; test $$first -eq 0 -a $$second -eq 0

# The promises of docs/reliability.md in their long form, 200 kills at random moments among them
soak: $(VENV)/.tools
	LATENTOPT_KILLS=200 LATENTOPT_SOAK=1 $(BIN)/python -m pytest -q tests/test_crashes.py tests/test_every_step.py \
		tests/test_one_folder.py tests/test_same_bits.py tests/test_signals.py tests/test_memory_runs_out.py

# 100,000 damaged inputs through every parser: some minutes.
fuzz: $(VENV)/.tools
	LATENTOPT_FUZZ=100000 $(BIN)/python -m pytest -q tests/test_fuzz.py

# The documentation as a site: site/index.html. (The variable silences an advertisement on stderr.)
docs: $(VENV)/.tools
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.tools
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo-out site .cache
