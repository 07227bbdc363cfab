# The only commands anyone needs. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two share the work, file by file, the longest first (tests/support/order.py), each with a Postgres and a broker of its own. Not
# end to end: a stack fills a machine
PYTEST := $(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=10
# A test there may wait for several groups to form, each on a JVM that shares the machine with another worker's
PATIENT := --timeout=300
# What reaches no broker, and what any broker does for, has run on the local one
ON_KAFKA := -m "not brokerless and not any_broker"
export PATH := $(CURDIR)/$(BIN):$(PATH)
PACKAGES := libs/common services/consent-svc services/campaign-svc services/dispatch-svc services/inbound-svc stack
SOURCES := libs services stack tests examples bench chaos

.DEFAULT_GOAL := help
.PHONY: help install lock demo up down status page check fmt lint types imports test test-kafka unit property contract conformance service e2e schemas rooms corpus mutants fuzz bench chaos kafka clean

##@ Everyday
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## A virtual environment with everything, pinned with hashes

$(VENV)/installed: requirements/dev.txt $(PACKAGES:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PACKAGES:%=-e ./%)
	touch $@

demo: install ## A real run with a report: 10,000 contacts, two campaigns, STOP replies while it runs (KAFKA=1 or 3; ON=file: docker-compose.yml)
	$(BIN)/python -m stack demo

up: install ## Start everything and leave it running; URLs and a token in .placet/stack.env (KAFKA=1 or 3)
	$(BIN)/python -m stack up

down: install ## Stop what `make up` started
	$(BIN)/python -m stack down

status: install ## What is running
	$(BIN)/python -m stack status

page: install ## The address of a preference page in what `make up` started, for your browser
	@$(BIN)/python -m stack page

kafka: install ## Apache Kafka itself, until Ctrl-C (B=3 for three brokers); needs Java 17, and Maven the first time
	$(BIN)/python -m stack kafka $(or $(B),1)

clean: ## Remove what was built or run here
	rm -rf $(VENV) .placet .kafka .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

##@ Tests
test: install ## Every test: unit, property, contract, service, end to end (T=path narrows)
ifdef T
	$(BIN)/pytest $(T)
else
	$(PYTEST) --ignore=tests/e2e --ignore=tests/kafka
	$(BIN)/pytest tests/e2e
endif

test-kafka: install ## What a kind of broker may change, on Apache Kafka itself (Java 17; Maven the first time; T=path narrows)
ifdef T
	PLACET_TEST_BROKERS=1 $(BIN)/pytest $(T)
else
	PLACET_TEST_BROKERS=1 $(PYTEST) $(PATIENT) $(ON_KAFKA) tests/conformance tests/service --ignore=tests/service/stack \
		--ignore=tests/service/dispatch/test_fail_points.py
	PLACET_TEST_BROKERS=1 $(BIN)/pytest $(PATIENT) $(ON_KAFKA) tests/kafka tests/e2e --ignore=tests/e2e/test_tutorial.py \
		--ignore=tests/e2e/test_chaos.py
endif

unit property contract conformance service e2e: install ## One suite
	$(if $(filter e2e,$@),$(BIN)/pytest,$(PYTEST)) tests/$@

mutants: install ## Small changes that tests must catch, one at a time (M=part of a name)
	$(BIN)/python -m tests.mutants $(M)

fuzz: install ## Requests nobody would send to inbound-svc, for 10 minutes (FUZZ_SECONDS=n; T=tests/service/common/test_fuzz.py: to the others)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(BIN)/pytest -q -s $(or $(T),tests/service/inbound/test_inbound_fuzz.py)

corpus: install ## How well STOP is understood, beside the rules of Twilio, AWS, Mautic and Parcelvoy
	$(BIN)/python -m tests.unit.inbound.corpus

bench: install ## Each figure beside its limit, in one run (B=consent for one of them, SUBJECTS=2000000, SIZE=20000 and ROUNDS=5 of it, KAFKA=1)
	$(BIN)/python -m bench $(if $(KAFKA),--kafka) $(if $(SUBJECTS),--subjects $(SUBJECTS)) $(if $(SIZE),--size $(SIZE)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(B)

chaos: install ## The promises while everything breaks, for 10 minutes (SECONDS=n SEED=n BROKERS=0|1|3 ONLY=regexp; CAMPAIGN=100000)
	$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(if $(BROKERS),--brokers $(BROKERS)) $(if $(ONLY),--only "$(ONLY)") $(if $(EARLIER),--earlier $(EARLIER)) $(if $(CAMPAIGN),--campaign $(CAMPAIGN))

##@ Quality
check: install ## Formatting, lint, types, import rules, and the tests that need nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy tests bench chaos
	$(BIN)/lint-imports
	$(PYTEST) -q tests/unit tests/contract

fmt: install ## Format, and mend what can be mended
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

##@ Upkeep
lock: ## Compile requirements/*.in into pins with hashes (needs uv)
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url requirements/dev.in -o requirements/dev.txt
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url -c requirements/dev.txt requirements/run.in -o requirements/run.txt

rooms: install ## Write the rooms of docs/architecture.md anew, from the docstrings
	$(BIN)/python -m tests.contract.rooms

schemas: install ## Write the JSON Schemas of the events anew (additive changes only)
	$(BIN)/python -m tests.contract.schemas
