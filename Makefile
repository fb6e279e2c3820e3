# make search   set up what is missing, then the main job on the embedded data (digits on photographs), device `local`
# make test     set up what is missing, then the tests, a process for each core
# make setup    only .venv
PYTHON ?= python3
VENV    = .venv
PIP     = $(VENV)/bin/python -m pip
STAMP   = $(VENV)/.ready
SOURCES = pyproject.toml constraints.txt $(shell find csrc -type f \( -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt \))

.PHONY: setup search test lint clean

setup: $(STAMP)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgenas needs Python 3.11 or newer; found %d.%d: make PYTHON=python3.12 setup" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

$(STAMP): $(VENV)/bin/python $(SOURCES)
	@command -v c++ >/dev/null || { echo "edgenas compiles its kernels: a C++20 compiler is needed (Debian, Ubuntu: apt-get install g++)"; exit 1; }
	$(PIP) install --quiet -c constraints.txt "scikit-build-core>=0.10" "nanobind>=2.2" cmake ninja
	$(PIP) install --quiet -c constraints.txt --no-build-isolation -e ".[dev,peers,nni]"
	@touch $@

search: $(STAMP)
	$(VENV)/bin/edgenas search --data digits --device local --max-latency 1ms --max-size 1MB --budget 100 --finalists 2 --epochs 16 --out runs/digits

test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:
	rm -rf build $(STAMP)
