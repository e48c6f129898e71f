# make demo    the story on data that ships with the dependencies
# make test    every check; CI runs exactly this
# make faults  breaks runs, disks, data and clocks on purpose, and prints what was survived
# make image   a container image for CPUs; make image-cuda for NVIDIA GPUs (docs/containers.md)
# make native  an extension that trains faster on CPU; needs g++ (docs/performance.md)
#
# PYTHON=...   the interpreter (3.11 to 3.13); VENV=... where to install; TORCH= to test without PyTorch

SUITABLE = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p $(SUITABLE) 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
TORCH ?= -r requirements-torch.txt
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

# Where the library or a compiler is missing, these two go on without the extension.
NATIVE = $(VENV)/bin/python -m resnet_jax.native.build

# What a run in a container says that it is of, for there is no git in it.
COMMIT = $(shell git rev-parse HEAD)$(shell git diff --quiet HEAD -- || echo +changes)

.PHONY: image image-cuda native demo test faults lint types pytest lock clean

demo: $(VENV)/.runtime
	@$(NATIVE) --optional
	$(VENV)/bin/python -m experiments.demo

image:
	docker build --file docker/Dockerfile --target cpu --build-arg COMMIT="$(COMMIT)" --tag resnet_jax:cpu .

image-cuda:
	docker build --file docker/Dockerfile --target cuda --build-arg COMMIT="$(COMMIT)" --tag resnet_jax:cuda .

native: $(VENV)/.runtime
	@$(NATIVE)

test: lint types pytest

faults: $(VENV)/.development
	$(VENV)/bin/python -m tests.faults --rounds=50 --out=faults

lint: $(VENV)/.development
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.development
	$(VENV)/bin/mypy

pytest: $(VENV)/.development
	@$(NATIVE) --optional
	$(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 found; make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements.lock
	touch $@

$(VENV)/.development: requirements-dev.lock requirements-torch.txt $(VENV)/.runtime
	$(PIP) --require-hashes -r requirements-dev.lock
	$(if $(TORCH),$(PIP) $(TORCH))
	touch $@

# The extras of the tests bound what both have, so that they are tested with what is installed.
COMPILE = uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# Writes the hash-locked files anew, for all supported Python versions at once. Needs uv.
lock:
	$(COMPILE) requirements-dev.txt -o requirements-dev.lock
	$(COMPILE) --constraint requirements-dev.lock requirements.txt -o requirements.lock

clean:
	rm -rf resnet_jax/native/lib $(VENV) .pytest_cache .mypy_cache .ruff_cache
