# Each target sets up what it needs. `make help` lists the targets.

VENV     := .venv
BIN      := $(VENV)/bin
SCENARIO ?= recovery
BROKER   ?= embedded
ARGS     ?=
N        ?= 3
DEBIAN13 ?= .debian13
BENCHMARKS ?= broker control pace tracing watching

# The first of these that is Python 3.11 or later; `make PYTHON=/path/to/python3.12 …` chooses another.
PYTHON   ?= $(eval PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done))$(PYTHON)
PIP      := $(BIN)/python -m pip --quiet --disable-pip-version-check

# A run starts a dozen processes and the tests hundreds: they should share compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

# -- set-up ------------------------------------------------------------------------------------------------------------

.PHONY: install
install: $(VENV)/.dev  ## make .venv with the package and the development tools

$(VENV)/.package: pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or later is needed, and no python3 on the PATH is one (found: $$(python3 --version 2>&1))."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 install"; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt-get install python3-venv."; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@

$(VENV)/.kafka: $(VENV)/.package
	@$(PIP) install -c constraints.txt -e '.[kafka]'
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	@echo "adding the development tools ..."
	@$(PIP) install -c constraints.txt --group dev
	@touch $@

.PHONY: perf-test
perf-test: .perf-test/.complete  ## fetch RabbitMQ's PerfTest by Maven for benchmarks/strangers.py, which needs Java

.perf-test/.complete: tools/perf-test/pom.xml
	@command -v mvn >/dev/null || { echo "Maven is needed to fetch PerfTest: apt-get install maven"; exit 1; }
	@rm -rf .perf-test
	@mvn --batch-mode --quiet -Dstyle.color=never --file $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/.perf-test
	@touch $@

.PHONY: axe
axe: .axe/.complete  ## fetch axe-core by npm: the tests look for what makes the pages hard to use without eyes or a mouse

.axe/.complete: Makefile
	@command -v npm >/dev/null || { echo "npm is needed to fetch axe-core: apt-get install npm"; exit 1; }
	@rm -rf .axe
	@npm install --silent --no-save --no-package-lock --prefix .axe axe-core@4.14.1
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@$(PIP) install -c constraints.txt --group docs
	@touch $@

.PHONY: kafka
kafka: $(VENV)/.kafka .kafka/libs/.complete  ## fetch Kafka's client and its jars (43 MB, by Maven) for BROKER=kafka, which needs Java 17

.kafka/libs/.complete: tools/kafka/pom.xml
	@command -v mvn >/dev/null || { \
		echo "Maven is needed to fetch Kafka: apt-get install maven. To use an existing Kafka, set KAFKA_HOME."; exit 1; }
	@rm -rf .kafka/libs
	@mvn --batch-mode --quiet -Dstyle.color=never --file $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/.kafka/libs
	@touch $@

.PHONY: rabbitmq4
rabbitmq4:  ## install Debian 13's RabbitMQ 4 and Python 3.13 in a folder of their own, DEBIAN13=.debian13 (as root)
	@tools/debian13/install $(DEBIAN13)
	@echo 'RABBITMQ_HOME=$(abspath $(DEBIAN13))/rabbitmq pace run --broker rabbitmq'

# -- the main job ------------------------------------------------------------------------------------------------------

.PHONY: experiment
experiment: $(VENV)/.package $(if $(filter kafka%,$(BROKER)),$(VENV)/.kafka)  ## run SCENARIO=recovery on BROKER=embedded (or rabbitmq, kafka, a URL), with a verdict and a report
	@$(BIN)/pace run $(SCENARIO) --broker $(BROKER) $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev  ## run some of benchmarks/, BENCHMARKS="broker control pace tracing watching"; with all of them it takes hours
	@for name in $(BENCHMARKS); do echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py $(ARGS) || exit 1; done

# -- development -------------------------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/.dev  ## run the tests, with SLOW=1 the slow ones too; the last lines name missing brokers
	@$(BIN)/pytest -n 2 --dist loadgroup $(if $(SLOW),,-m 'not slow') $(ARGS)

.PHONY: test-rabbitmq
test-rabbitmq: $(VENV)/.dev  ## run on RabbitMQ, the installed one or that in RABBITMQ_HOME: contract tests, an experiment, faults
	@PACE_REQUIRE_BROKERS=rabbitmq $(BIN)/pytest -n 2 --dist loadgroup tests/contract -k 'rabbitmq and not proxied' $(ARGS)
	@$(MAKE) --no-print-directory test-rabbitmq-faults

.PHONY: test-rabbitmq-faults
test-rabbitmq-faults: $(VENV)/.dev  ## run an experiment on RabbitMQ, and those in which the broker fails
	@PACE_REQUIRE_BROKERS=rabbitmq $(BIN)/pytest -n 2 --dist loadgroup tests/acceptance/test_run.py tests/acceptance/test_faults.py \
		-m rabbitmq -k 'another_kind or broker- or memory-alarm' $(ARGS)

PIP_IN_DEBIAN13 := /srv/venv/bin/python -m pip --quiet --disable-pip-version-check

.PHONY: test-python
test-python: rabbitmq4  ## run the unit tests on Debian 13's Python, which `make rabbitmq4` brings
	@$(DEBIAN13)/enter sh -c 'test -x /srv/venv/bin/pip || python3 -m venv /srv/venv'
	@$(DEBIAN13)/enter $(PIP_IN_DEBIAN13) install --root-user-action ignore 'pip>=25.1'
	@$(DEBIAN13)/enter $(PIP_IN_DEBIAN13) install --root-user-action ignore -c constraints.txt -e '.[bench,kafka]' --group dev
	@$(DEBIAN13)/enter /srv/venv/bin/python -m pytest -n 2 tests/unit $(ARGS)

.PHONY: peers
peers: $(VENV)/.dev  ## run other clients' test suites on the embedded broker and on RabbitMQ, and compare (with Go and npm: all)
	@$(BIN)/python tools/peers/run.py $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev  ## check format, style, types and imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/mypy --platform win32 --no-warn-unreachable --cache-dir .mypy_cache/win32
	@$(BIN)/mypy --platform darwin --no-warn-unreachable --cache-dir .mypy_cache/darwin
	@$(BIN)/lint-imports

.PHONY: dist
dist: $(VENV)/.dev  ## build the distributions twice, compare them, and try them in empty environments (PYTHONS="python3.12 …")
	@$(BIN)/python tools/release.py $(PYTHONS)

.PHONY: release
release: $(VENV)/.dev  ## set VERSION=1.2.0, close the changelog's section under it, and build as make dist does
	@$(BIN)/python tools/release.py --prepare "$(VERSION)" $(PYTHONS)

.PHONY: docs
docs: $(VENV)/.dev  ## generate docs/configuration.md, docs/cli.md and the Grafana dashboards from the code
	@$(BIN)/python docs/generate.py
	@$(BIN)/python tools/dashboards.py

.PHONY: docs-site
docs-site: export NO_MKDOCS_2_WARNING = 1
docs-site: $(VENV)/.docs  ## build the documentation as a site, in site/ (ARGS=serve shows it on http://127.0.0.1:8000 instead)
	@$(BIN)/mkdocs $(or $(ARGS),build --quiet)

.PHONY: site
site: docs-site  ## build what can be hosted anywhere: the documentation with the classroom, in site/

.PHONY: pictures
pictures: $(VENV)/.dev  ## make the pictures in docs/pictures from real runs (three minutes; needs Chromium)
	@$(BIN)/python tools/pictures.py

# -- the stack in containers -------------------------------------------------------------------------------------------

.PHONY: docker
docker:
	@docker compose version >/dev/null 2>&1 || { \
		echo "Docker with its compose plugin is needed for this, and is not here. Without it: make experiment"; exit 1; }

.PHONY: up
up: docker  ## start RabbitMQ, producer, consumer, monitor, lab, Prometheus, Grafana and Jaeger in containers
	@docker compose up --build --detach --wait
	@echo "monitor http://localhost:8000  producer http://localhost:5000  lab http://localhost:8080  RabbitMQ http://localhost:15672"
	@echo "Grafana http://localhost:3001  Prometheus http://localhost:9090  Jaeger http://localhost:16686"

.PHONY: baseline
baseline: export PACE_PRODUCER__RATE = 10
baseline: export PACE_PRODUCER__STRATEGY = unbounded
baseline: export PACE_CONSUMER__RATE = 10
baseline: up  ## start the same with the labs' baseline: 10 messages a second, 100 ms of work each, no bound

.PHONY: down
down: docker  ## stop the containers
	@docker compose --profile '*' down

.PHONY: logs
logs: docker  ## follow what the programs print
	@docker compose logs --follow producer consumer monitor lab

.PHONY: scale-consumer
scale-consumer: docker  ## run N=3 consumers
	@docker compose --profile consumers up --detach --no-recreate --scale further-consumer=$$(($(N) - 1))

.PHONY: monitor
monitor: $(VENV)/.package  ## watch this machine's broker in this terminal
	@$(BIN)/pace monitor $(ARGS)

.PHONY: clean
clean:  ## remove .venv, Kafka, RabbitMQ 4, caches and recorded runs; remove the containers and their data
	@if docker compose ps >/dev/null 2>&1; then docker compose --profile '*' down --volumes --remove-orphans; fi
	@rm -rf $(VENV) .axe .debian13 .kafka .peers runs dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
