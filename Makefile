# Everything a developer runs. `make help` lists the targets.
# Set-up is part of each target and quick when nothing changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The distribution's Python where it is new enough: it is built with profile-guided optimisation, while
# one that was compiled without (pyenv does unless told) takes half as long again for everything.
DISTRIBUTION := /usr/bin/python3
PYTHON ?= $(shell $(DISTRIBUTION) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $(DISTRIBUTION) || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# pip loads libraries from where it builds, which hardened machines do not allow in /tmp.
PIP = mkdir -p $(VENV)/tmp && TMPDIR="$(CURDIR)/$(VENV)/tmp" \
	$(BIN)/python -m pip install -q --disable-pip-version-check

# What the code itself needs; what its tests run on a mount; what the benchmarks compare with.
PACKAGES_RUN := python3-venv ca-certificates fuse3
PACKAGES_TEST := $(PACKAGES_RUN) python3-dev gcc libc6-dev make pkg-config libfuse3-dev \
	git rsync sqlite3 fio openssl tinyproxy-bin
PACKAGES_BENCH := $(PACKAGES_TEST) s3fs
PACKAGES_E2E := $(PACKAGES_RUN) etcd-server runc containernetworking-plugins busybox-static \
	iproute2 iptables openssl mmdebstrap

CODE := csi_slayer tests bench scripts e2e hatch_build.py
PYTEST_ARGS ?=

.PHONY: help setup test test-fast lint format docs manifests e2e e2e-kind e2e-environment demo bench clean
.PHONY: as-root packages-run packages-test packages-bench packages-e2e go-programs cluster-programs

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: packages-test $(VENV)/.test go-programs ## packages, virtual environment, Go programs of the tests

test: as-root setup lint ## lint, types, layers and all tests
	@echo "==> all tests"
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(VENV)/.test ## unit tests only: no mounts, no servers
	@echo "==> unit tests"
	$(BIN)/python -m pytest tests/unit -m "not integration and not slow" $(PYTEST_ARGS)

lint: $(VENV)/.test ## ruff, mypy --strict, layer check
	@echo "==> ruff check"
	@$(BIN)/ruff check $(CODE)
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check $(CODE)
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> layers"
	@$(BIN)/python -m tests.support.layers

format: $(VENV)/.test ## format the code and mend what ruff can
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

docs: $(VENV)/.test ## write the parts of docs/ that are made from the code
	@$(BIN)/python -m tests.support.reference

e2e-environment: packages-e2e $(VENV)/.e2e # what the end-to-end tests need, but for the Go programs

e2e: as-root e2e-environment cluster-programs ## on a real Kubernetes without Docker: up, all end-to-end tests, down
	@echo "==> end-to-end tests"
	$(BIN)/python -m e2e -- $(PYTEST_ARGS)

e2e-kind: $(VENV)/.e2e ## the same on kind; needs docker, kind, kubectl and helm
	$(BIN)/python -m e2e --kind -- $(PYTEST_ARGS)

manifests: $(VENV)/.test ## render deploy/manifests from the Helm chart (builds Helm once)
	@$(BIN)/python scripts/install-go-programs helm
	@$(BIN)/python -m tests.support.manifests

demo: packages-run $(VENV)/.run ## see it work: mount, crash, recover, unmount
	@$(BIN)/python scripts/demo

bench: packages-bench $(VENV)/.test $(VENV)/.bench go-programs ## measure against rclone, s3fs and the local disk
	@echo "==> benchmarks"
	$(BIN)/python -m bench

clean: ## remove what the targets made here (not the machine-wide cache of built programs)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -path ./.git -prune -o -name __pycache__ -type d -print0 | xargs -0 -r rm -rf

as-root:
	@[ "$$(id -u)" = 0 ] || { echo "the tests mount file systems: run them as root" \
		"(sudo make $(MAKECMDGOALS)); make test-fast needs no root" >&2; exit 1; }

packages-run packages-test packages-bench packages-e2e: packages-%:
	@scripts/install-packages $(PACKAGES_$(shell echo $* | tr a-z A-Z))

go-programs: $(VENV)/.test
	@echo "==> Go programs of the tests"
	@$(BIN)/python scripts/install-go-programs test

cluster-programs: go-programs
	@echo "==> Go programs of the cluster"
	@$(BIN)/python scripts/install-go-programs cluster

# What the package is built from besides its modules: an editable install compiles the protos.
BUILT_FROM := pyproject.toml hatch_build.py $(wildcard protos/*.proto)

# pip comes into an environment last: one without is half made (python3-venv was missing, say). Where
# the Python that it was made with was upgraded, or is gone, none is there that works: all is made anew.
ENVIRONMENT := $(VENV)/bin/python $(VENV)/bin/pip
$(shell $(VENV)/bin/python -I -c 'import pip' 2>/dev/null \
	|| rm -f $(addprefix $(VENV)/,bin/pip .run .test .bench .e2e))
$(ENVIRONMENT) &:
	@echo "==> virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python >= 3.11 is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

# A stamp each for what is installed into the environment; they go away with it.
$(VENV)/.run: $(BUILT_FROM) | $(ENVIRONMENT)
	@echo "==> dependencies"
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(BUILT_FROM) | $(ENVIRONMENT)
	@echo "==> dependencies of the tests"
	@$(PIP) -e '.[test,otel,pyfuse3]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(BUILT_FROM) | $(ENVIRONMENT)
	@echo "==> dependencies of the benchmarks"
	@$(PIP) -e '.[bench]'
	@touch $@

$(VENV)/.e2e: $(BUILT_FROM) | $(VENV)/.test
	@echo "==> dependencies of the end-to-end tests"
	@$(PIP) -e '.[test,e2e]'
	@touch $@
