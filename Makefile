# The only commands anyone needs. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three share the work, file by file, the longest first (tests/support/order.py), each with a Postgres and a broker of its
# own: two leave the cores waiting for answers. Tests on Apache Kafka wait longer, so four do; end to end it is two: a
# stack alone leaves half of two cores idle
PYTEST := $(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --durations=10
# Node is a wheel (requirements/dev.in); its programs are pinned beside the tests of the documents
NODE := tests/contract/openapi/node_modules
# An SMSC of the tests, a program for Node
SMSC := tests/support/operators/node/node_modules
# A gateway of the tests: its pins are not ours
JASMIN := .jasmin
# What `make kubernetes` builds and runs
KUBERNETES := $(CURDIR)/.kubernetes/bin
GO_BUILD := go build -p 1 -trimpath
OF_SERVER := -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.3"
OF_SCALER := -ldflags "-s -w"
# A program of Go, for `make manifests` alone
KUSTOMIZE := $(CURDIR)/$(BIN)/kustomize
# The suites that need nothing: part of `make check`
QUICK := tests/unit tests/contract
# What reaches no broker, and what any broker does for, has run on the local one
ON_KAFKA := -m "not brokerless and not any_broker"
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Hundreds of processes start in the tests, and each would compile every module anew
unexport PYTHONDONTWRITEBYTECODE
PACKAGES := libs/common services/consent-svc services/campaign-svc services/dispatch-svc services/inbound-svc stack clients/python clients/cli \
	clients/operator
SOURCES := libs services stack clients tests examples bench chaos deploy/release.py

.DEFAULT_GOAL := help
.PHONY: help install lock demo rotate-demo compose up down status page check lint types quick api fmt test test-kafka unit property contract conformance service e2e operators schemas rooms reference manifests kinds traces alerts kubernetes drill corpus likeness mutants fuzz attack bench costs chaos kafka clean client wheels release schemathesis licences sbom

##@ Everyday
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Create a virtual environment with all dependencies, pinned with hashes

$(VENV)/installed: requirements/dev.txt $(PACKAGES:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PACKAGES:%=-e ./%)
	touch $@

demo: install ## A run with a report: 10,000 contacts, two organisations, STOP replies, a hostile caller (KAFKA=1 or 3; ON=file: docker-compose.yml)
	$(BIN)/python -m stack demo

rotate-demo: install ## The demo while its field, signing, link and outer keys are replaced, and once the old keys have gone
	$(BIN)/python -m stack demo --rotating

up: install ## Start the local stack; URLs and a token are in .placet/stack.env (KAFKA=1 or 3; OPERATOR=kafka, smpp or kannel; GATEWAYS=file ACCOUNTS=file)
	$(BIN)/python -m stack up

down: install ## Stop the local stack of `make up`
	$(BIN)/python -m stack down

status: install ## Show the status of the local stack
	$(BIN)/python -m stack status

page: install ## Print the URL of a preference page of the local stack
	@$(BIN)/python -m stack page

kafka: install ## Run Apache Kafka until Ctrl-C (B=3: three brokers); needs Java 17, and Maven the first time
	$(BIN)/python -m stack kafka $(or $(B),1)

clean: ## Remove build and run files
	rm -rf $(VENV) $(JASMIN) $(NODE) $(SMSC) $(addprefix tests/support/operators/java/,libs classes) .placet .kafka .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

##@ Tests
test: install $(SMSC)/installed ## Run all tests: unit, property, contract, service, end to end (T=path narrows; CHECKED=1: but those of `make check`)
ifdef T
	$(BIN)/pytest $(T)
else
	$(PYTEST) $(if $(CHECKED),$(QUICK:%=--ignore=%)) --ignore=tests/e2e --ignore=tests/kafka --ignore=tests/operators --ignore=tests/alerts --ignore=tests/kubernetes --ignore=tests/compose
	$(PYTEST) -n 2 tests/e2e
endif

test-kafka: install ## Run the tests that depend on the broker on Apache Kafka (a JDK 17; Maven the first time; T=path narrows)
ifdef T
	PLACET_TEST_BROKERS=1 $(BIN)/pytest $(T)
else
	failed=0; \
	PLACET_TEST_BROKERS=1 $(PYTEST) -n 4 $(ON_KAFKA) tests/conformance tests/service --ignore=tests/service/stack \
		--ignore=tests/service/dispatch/test_fail_points.py || failed=1; \
	PLACET_TEST_BROKERS=1 $(PYTEST) -n 2 $(ON_KAFKA) tests/kafka tests/e2e --ignore=tests/e2e/test_tutorial.py \
		--ignore=tests/e2e/test_chaos.py || failed=1; \
	exit $$failed # .ci/again runs what has failed: both parts have run by then
endif

unit property contract conformance service e2e: install $(SMSC)/installed ## Run a single suite
	$(PYTEST) $(if $(filter e2e,$@),-n 2) tests/$@

operators: install $(SMSC)/installed $(if $(findstring jasmin,$(T)),$(JASMIN)/installed) ## Run Placet behind gateways that others wrote, Kannel and SMPP servers (MESSAGES=2000 RUNS=10: long; SMPP_MESSAGES=1000: with chaos; T=path narrows, T=tests/operators/test_jasmin.py: Jasmin, with Debian's rabbitmq-server and redis-server)
	PLACET_OPERATORS_MESSAGES=$(or $(MESSAGES),80) PLACET_OPERATORS_RUNS=$(or $(RUNS),1) \
		$(BIN)/pytest --log-cli-level=INFO --durations=10 $(or $(T),tests/operators --ignore=tests/operators/test_jasmin.py $(if $(SMPP_MESSAGES),,--ignore-glob=tests/operators/test_smpp_*))

alerts: install ## Evaluate the alert rules and the scalers near their thresholds, and with each moved (promtool: Debian's prometheus; K="not moves")
	$(BIN)/pytest -q --timeout=900 $(if $(K),-k "$(K)") tests/alerts

kubernetes: install $(KUBERNETES)/server $(if $(findstring overlays,$(T)),,$(KUBERNETES)/scaler) ## Apply each overlay to an API server of its own, and scale production with KEDA (Go 1.26, Debian's prometheus; an hour of one core the first time; T=tests/kubernetes/test_overlays.py: half of it, without KEDA)
	$(BIN)/pytest -q $(or $(T),tests/kubernetes)

compose: install ## Build the images twice, and run docker-compose.yml with the demo while each container is killed (a Docker engine, compose 2; 15 minutes)
	$(BIN)/pytest -q --timeout=0 tests/compose

$(KUBERNETES)/server: deploy/k8s/server/go.mod
	mkdir -p $(KUBERNETES)
	cd deploy/k8s/server && $(GO_BUILD) $(OF_SERVER) -o $(KUBERNETES)/etcd go.etcd.io/etcd/server/v3
	cd deploy/k8s/server && $(GO_BUILD) $(OF_SERVER) -o $(KUBERNETES)/ k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
	touch $@

$(KUBERNETES)/scaler: deploy/k8s/scaler/go.mod deploy/k8s/server/go.mod
	mkdir -p $(KUBERNETES)
	cd deploy/k8s/server && $(GO_BUILD) $(OF_SERVER) -o $(KUBERNETES)/ k8s.io/kubernetes/cmd/kube-controller-manager
	cd deploy/k8s/scaler && $(GO_BUILD) $(OF_SCALER) -o $(KUBERNETES)/keda-operator github.com/kedacore/keda/v2/cmd/operator
	cd deploy/k8s/scaler && $(GO_BUILD) $(OF_SCALER) -o $(KUBERNETES)/keda-adapter github.com/kedacore/keda/v2/cmd/adapter
	touch $@

mutants: install ## Apply small faults, one at a time, that the tests must catch (M=part of a name)
	$(BIN)/python -m tests.mutants $(M)

fuzz: install ## Fuzz inbound-svc for 10 minutes (FUZZ_SECONDS=n; T=tests/service/common/test_fuzz.py: the other services; T=tests/property/test_keyword_scripts.py: the reader)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(BIN)/pytest -q -s $(or $(T),tests/service/inbound/test_inbound_fuzz.py)

schemathesis: install ## Hold the four services against their OpenAPI documents, 10 minutes each (FUZZ_SECONDS=n): no 5xx, no undeclared answer
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(BIN)/pytest -q -s tests/service/common/test_fuzz.py tests/service/inbound/test_inbound_fuzz.py

attack: install ## Attack inbound-svc for 10 minutes while STOPs come and are enforced (ATTACK_SECONDS=n), forge tokens for every route, and run the other attacks once
	ATTACK_SECONDS=$(or $(ATTACK_SECONDS),600) $(BIN)/pytest -q -s tests/attack

corpus: install ## Compare the STOP classifier with the rules of Twilio, AWS, Mautic and Parcelvoy
	$(BIN)/python -m tests.unit.inbound.corpus

likeness: install ## Learn anew the weights that hold a text like a wish to stop, from the labelled corpus
	$(BIN)/python -m tests.unit.inbound.likeness

bench: install ## Measure each figure beside its limit (B=consent: a single benchmark; SUBJECTS=2000000, SIZE=20000, ROUNDS=3, FOR=60 and RATE=300 of B=steady, KAFKA=1, ONLY="part of a title"; KEEP=1: for the history by commit)
	$(BIN)/python -m bench $(if $(KAFKA),--kafka) $(if $(KEEP),--keep) $(if $(ONLY),--only "$(ONLY)") $(if $(SUBJECTS),--subjects $(SUBJECTS)) $(if $(SIZE),--size $(SIZE)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(FOR),--seconds $(FOR)) $(if $(RATE),--rate $(RATE)) $(B)

costs: install ## Hold what a message costs in statements, WAL and bytes in Kafka at bench/costs.json, and say where it costs more
	$(BIN)/python -m bench --size 2000 --rounds 2 costs

chaos: install ## Check the promises under injected faults for 10 minutes (SECONDS=n SEED=n BROKERS=0|1|3 ONLY=regexp; CAMPAIGN=100000)
	$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(if $(BROKERS),--brokers $(BROKERS)) $(if $(ONLY),--only "$(ONLY)") $(if $(EARLIER),--earlier $(EARLIER)) $(if $(CAMPAIGN),--campaign $(CAMPAIGN))

drill: install ## Restore each database to an instant and lose Kafka whole, under load, by the runbook (Java 17, Maven the first time; TURNS=2 SEED=n ONLY="dispatch Kafka")
	$(BIN)/python -m chaos.drill $(if $(SEED),--seed $(SEED)) $(if $(TURNS),--turns $(TURNS)) $(if $(ONLY),--only $(ONLY))

##@ Quality
check: lint types quick api ## Check formatting, lint, types and import rules, and run the tests without services (-j2: side by side)

lint: install
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy
	$(BIN)/mypy tests bench chaos deploy/release.py clients/generate.py clients/python/examples examples/shop examples/operator

quick: install
	$(PYTEST) -q $(QUICK)

api: install $(NODE)/installed ## Lint the OpenAPI and AsyncAPI documents, and compile a flow on the TypeScript client made of them
	$(NODE)/.bin/spectral lint --ruleset docs/openapi/spectral.yaml --fail-severity hint $(wildcard docs/openapi/*.json)
	node $(dir $(NODE))asyncapi.mjs docs/asyncapi.json
	$(NODE)/.bin/openapi-typescript docs/openapi/placet.json --default-non-nullable=false --output $(dir $(NODE))generated/placet.ts
	$(NODE)/.bin/tsc --project $(dir $(NODE))

$(NODE)/installed: tests/contract/openapi/package-lock.json $(VENV)/installed
	cd $(dir $(NODE)) && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

$(SMSC)/installed: tests/support/operators/node/package-lock.json $(VENV)/installed
	cd $(dir $(SMSC)) && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

$(JASMIN)/installed: requirements/jasmin.txt
	$(PYTHON) -m venv $(JASMIN)
	$(JASMIN)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/jasmin.txt
	touch $@

fmt: install ## Format, and apply automatic fixes
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

##@ Upkeep
lock: ## Compile requirements/*.in into pins with hashes (needs uv)
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url requirements/dev.in -o requirements/dev.txt
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-emit-index-url -c requirements/dev.txt requirements/run.in -o requirements/run.txt

client: install ## Regenerate the typed parts of the Python client from the OpenAPI documents
	$(BIN)/python -m tests.contract.client

wheels: install ## Build the wheels of the Python client, the command line and the operators' kit (dist/)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist ./clients/python ./clients/cli ./clients/operator

release: install ## Make what a release of the commit holds, twice and compared (VERSION=0.1.0 INTO=folder; IMAGES=1 with an engine, SIGN=1 with a key)
	$(BIN)/python deploy/release.py $(VERSION) $(if $(INTO),--into $(INTO)) $(if $(IMAGES),--images) $(if $(SIGN),--sign)

rooms: install ## Regenerate the rooms of docs/architecture.md from the docstrings
	$(BIN)/python -m tests.contract.rooms

manifests: install ## Regenerate topics, users, alerts and dashboards of deploy/k8s, and render its overlays (needs Go the first time)
	test -x $(KUSTOMIZE) || GOBIN=$(dir $(KUSTOMIZE)) go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1
	$(BIN)/python -m tests.contract.manifests $(KUSTOMIZE)

kinds: install ## Take the schemas of deploy/k8s/kinds from what projects release (CLONES=folder with their repositories; needs Go)
	$(BIN)/python -m tests.contract.kinds $(CLONES)

traces: install ## Draw the pictures of docs/traces.md anew, from the spans of a STOP and of a message
	PLACET_TEST_DRAW=1 $(BIN)/pytest -q tests/service/common/test_traces.py

licences: install ## Regenerate docs/licences.md from the packages of a service
	$(BIN)/python -m tests.contract.licences

sbom: install ## Write the bill of materials of a service's packages, with hashes (CycloneDX, dist/sbom.json)
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements --output-reproducible --output-format JSON --output-file dist/sbom.json requirements/run.txt

reference: install ## Regenerate docs/settings.md from the settings and docs/metrics.md from the metrics of the code
	$(BIN)/python -m tests.contract.settings
	$(BIN)/python -m tests.contract.metrics

schemas: install ## Regenerate JSON Schemas, OpenAPI and AsyncAPI documents, examples of docs/operators (additive changes; BREAKS="why" accepts others of the latter two)
	$(BIN)/python -m tests.contract.schemas
	$(BIN)/python -m tests.contract.callbacks
	$(BIN)/python -m tests.contract.asyncapi $(BREAKS)
	$(BIN)/python -m tests.contract.wire
	$(BIN)/python -m tests.contract.documents $(BREAKS)
