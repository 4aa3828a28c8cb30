# Everything a developer does, from a machine with nothing but Python ≥ 3.11, make and git. `make help` prints the list.

PYTHON      ?= python3
SCENARIO    ?= local-rollout
MINUTES     ?= 10
BENCH       ?= benchmarks
SUBJECT     ?= packets
SEED        ?=
MODE        ?= iptables
WORKERS     ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
PYTHONS     ?= 3.11 3.12 3.13 3.14 3.15
PLATFORMS   ?= x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin

VENV      := .venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

# uv can resolve for Pythons that are not installed. It goes into $$folder, which the recipe makes and removes.
INSTALL_UV := $(PYTHON) -m venv "$$folder" && "$$folder/bin/pip" install --quiet --disable-pip-version-check uv

# Commands that the kernel tests call, and the Debian packages that hold them.
KERNEL_COMMANDS := iptables conntrack nft ip nfacct ipset
KERNEL_PACKAGES := iptables conntrack nftables iproute2 nfacct ipset
# A real Prometheus, into which a test loads metrics. It is only unpacked, because an installed one would start as a service.
PROMETHEUS := $(VENV)/prometheus

export PATH := $(PATH):/usr/sbin:/sbin
# Some images ask Python to keep no bytecode. Each of the commands that the tests start would then compile kpsim anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup system-packages prometheus run lint types imports test golden fuzz bench mutants docs check lock wheels format clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv from requirements.lock and install kpsim into it

# Nothing is resolved here: --no-deps takes the lock as it is. The lock also holds hatchling, which builds kpsim.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kpsim needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@echo "installing kpsim and what it needs into $(VENV), once: a minute or two"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

system-packages: ## Install what the kernel tests call (iptables, nft, …) if missing; needs root and apt-get
	@missing=; for command in $(KERNEL_COMMANDS); do \
	  command -v $$command >/dev/null || missing="$$missing $$command"; done; \
	if [ "$$(id -u)" != 0 ]; then \
	  echo "*** not root: the kernel tests will be skipped"; \
	elif [ -n "$$missing" ] && ! command -v apt-get >/dev/null; then \
	  echo "*** missing:$$missing, and no apt-get to install them: the kernel tests will be skipped"; \
	elif [ -n "$$missing" ]; then \
	  echo "installing what the kernel tests call:$$missing"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $(KERNEL_PACKAGES) >/dev/null; } \
	  || echo "*** apt-get failed, missing:$$missing: the kernel tests will be skipped"; \
	fi

# 19 MB to fetch and 95 MB on disk; a few seconds. No root needed, unless apt-get has no lists yet.
prometheus: setup ## Unpack Debian's Prometheus into .venv, for the test that loads metrics into it
	@if command -v promtool >/dev/null && command -v prometheus >/dev/null || [ -x $(PROMETHEUS)/usr/bin/promtool ]; then :; \
	elif ! command -v apt-get >/dev/null; then echo "*** no apt-get to fetch Prometheus: its test will be skipped"; \
	else echo "unpacking Prometheus into $(PROMETHEUS), once"; \
	  folder=$$(mktemp -d); chmod 755 "$$folder"; \
	  { cd "$$folder" && { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } \
	    && dpkg-deb --extract prometheus_*.deb "$(CURDIR)/$(PROMETHEUS)"; } \
	  || echo "*** Prometheus could not be fetched: its test will be skipped"; \
	  rm -rf "$$folder"; \
	fi

run: setup ## Run a scenario: make run SCENARIO=local-rollout
	@$(BIN)/kpsim run $(SCENARIO)

lint: setup ## Formatting and ruff's rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup ## mypy --strict
	$(BIN)/mypy --strict

imports: setup ## The layers of the design (import-linter)
	$(BIN)/lint-imports --no-logo

# pytest runs last, so its summary is the last line. Kernel tests wait half of their time, so there are two workers for each
# processor. A worker keeps neighbouring tests together, which share what they computed, until another has nothing to do.
# Benchmarks are left out: they need a quiet machine.
test: setup system-packages prometheus lint types imports ## Everything that must hold: lint, types, imports, tests, notebooks
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal --benchmark-disable tests --nbmake $(NOTEBOOKS)

golden: setup ## Only the comparison with the recordings of the real kube-proxy
	$(BIN)/python -m pytest tests/golden

# Exit code 1 if the model and this machine's kernel disagree anywhere; what was found is then in tests/kernel/cases.
fuzz: setup system-packages ## Random input, model against Linux, or for every command: make fuzz [SUBJECT=packets|rulesets|hostile|diff|faults] [MODE=nftables] [MINUTES=10] [SEED=n]
	$(BIN)/python -m fuzz $(SUBJECT) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(filter packets,$(SUBJECT)),--mode $(MODE))

bench: setup ## Measure speed: make bench [BENCH=benchmarks/test_connections.py]
	$(BIN)/python -m pytest --benchmark-only $(BENCH)

# Not part of the checks: it takes minutes to half an hour. MUTANTS="packetpath.nat --sample 5" tries only some mutants.
mutants: setup ## Which small mistakes in the packet path no test notices, kernel aside: make mutants [MUTANTS=...]
	$(BIN)/python tests/mutation $(MUTANTS)

docs: setup ## Run the notebooks and the documents' commands anew, and store what they print
	$(BIN)/python -m pytest --nbmake --overwrite $(NOTEBOOKS)
	$(BIN)/python notebooks/settle.py $(NOTEBOOKS)
	$(BIN)/python tests/documents.py

check: setup ## kpsim check on the golden recordings and the built-in scenarios
	$(BIN)/kpsim check tests/golden kpsim/scenarios

# Resolves for every Python and system at once. If they need different releases, the lock has a line with a marker for each.
# Pins stay unless LOCK_ARGS=--upgrade, or --upgrade-package NAME for one.
lock: ## Resolve requirements.lock from pyproject.toml: make lock [LOCK_ARGS=--upgrade]
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; $(INSTALL_UV); \
	"$$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
	  --no-emit-index-url --custom-compile-command "make lock" $(LOCK_ARGS) \
	  --output-file requirements.lock pyproject.toml

# Asks the registry and installs nothing. It is not part of the checks, which must not fail when a registry does.
wheels: ## Whether everything locked has a wheel, for each Python and system: make wheels [PYTHONS="3.11 3.15"]
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; $(INSTALL_UV); failed=; \
	for python in $(PYTHONS); do for platform in $(PLATFORMS); do \
	  if "$$folder/bin/uv" pip install --quiet --dry-run --target "$$folder/none" --no-deps --only-binary :all: \
	    --require-hashes --python-version $$python --python-platform $$platform -r requirements.lock; \
	  then echo "Python $$python, $$platform: all wheels"; else failed=yes; echo "*** Python $$python, $$platform: see above"; fi; \
	done; done; [ -z "$$failed" ]

format: setup ## Rewrite the code as ruff formats it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv, caches and build output
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find kpsim fuzz tests -name __pycache__ -type d -prune -exec rm -rf {} +
