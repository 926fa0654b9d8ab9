# `make help` lists the commands. CI runs the same ones.
.DEFAULT_GOAL := help
PY := .venv/bin/python
PEERS := .venv-peers
SERVING_PEERS := .venv-peers-serving
TORCH := .venv-torch
ALERTMANAGER := github.com/prometheus/alertmanager@v0.35.0
LOCK := .venv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
  --custom-compile-command 'make lock'
DISTS := $(wildcard libs/* services/*)
OURS = $(foreach d,$(DISTS),--no-emit-package $(shell sed -n 's/^name = "\(.*\)"/\1/p' $(d)/pyproject.toml))
PACKAGES := $(wildcard libs/*/trimtab* services/*/trimtab_*)
BENCHES := $(patsubst loadtests/bench_%.py,%,$(wildcard loadtests/bench_*.py))
export DO_NOT_TRACK := 1
export UV_NATIVE_TLS := true

.PHONY: help setup lock demo alertmanager test test-torch lint types imports protos docs notebook example-clients bench up down
help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: .venv/.installed ## create .venv from requirements.lock, and fetch Kafka once
.venv/.installed: requirements.lock $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	@test -x .venv/bin/uv || for python in python3 python3.13 python3.12 python3.11 none; do \
	  test $$python != none || { echo "Python 3.11 or newer is missing, and so is its venv (Debian: apt-get" \
	    "install python3 python3-venv): install it and try again"; exit 1; }; \
	  ! $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break; \
	done && { test -x .venv/bin/uv || { $$python -m venv --clear .venv && .venv/bin/python -m pip install -q uv; }; }
	.venv/bin/uv pip install -q --python $(PY) --compile-bytecode --require-hashes -r requirements.lock
	.venv/bin/uv pip install -q --python $(PY) --no-deps --no-build-isolation $(addprefix -e ./,$(DISTS))
	$(PY) -m trimtab_stack --fetch
	@touch $@

demo: setup ## watch a production model meet March 2020
	.venv/bin/trimtab demo

test-torch: $(TORCH)/.installed ## the tests that need PyTorch, of which 5 GB are installed for them
	$(TORCH)/bin/python -m pytest services/trainer/tests/test_trainer_families.py libs/training/tests/test_training_neural.py

$(TORCH)/.installed: requirements-torch.lock | setup
	.venv/bin/uv venv -q --clear --python $(PY) $(TORCH)
	.venv/bin/uv pip install -q --python $(TORCH)/bin/python --require-hashes -r requirements-torch.lock
	echo "import site; site.addsitedir('$(CURDIR)/$$(echo .venv/lib/python3*/site-packages)')" \
	  > $$(echo $(TORCH)/lib/python3*/site-packages)/the-rest.pth
	@touch $@

test: lint types imports ## all tests, in two processes, each with a real Kafka and PostgreSQL
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

alertmanager: .tools/alertmanager ## build Prometheus' Alertmanager, which a test of alerts then takes
.tools/alertmanager:
	@command -v go >/dev/null || { echo "Go 1.25 or newer is missing, which Alertmanager is built with"; exit 1; }
	rm -rf .tools/source && mkdir -p .tools && cp -r "$$(go mod download -json $(ALERTMANAGER) | sed -n 's/.*"Dir": "\(.*\)",/\1/p')" .tools/source
	chmod -R u+w .tools/source && mkdir -p .tools/source/ui/app/dist
	echo 'The pages are not in the module; the API is whole.' > .tools/source/ui/app/dist/index.html
	cd .tools/source && go build -buildvcs=false -o ../alertmanager ./cmd/alertmanager
	rm -r .tools/source

up: setup ## start Kafka, PostgreSQL and the services, and leave them running
	.venv/bin/trimtab up

down: ## stop them
	.venv/bin/trimtab down

bench: setup ## all benchmarks, whichever fails; bench-NAME runs one
	@$(MAKE) --keep-going $(addprefix bench-,$(BENCHES))

bench-%: setup
	$(PY) loadtests/bench_$*.py

bench-features bench-drift: $(PEERS)/.installed
bench-serving: $(SERVING_PEERS)/.installed $(SERVING_PEERS)/grpc_load
$(PEERS)/.installed $(SERVING_PEERS)/.installed: .venv-%/.installed: loadtests/%.lock | setup
	.venv/bin/uv venv -q --clear --python $(PY) .venv-$*
	.venv/bin/uv pip install -q --python .venv-$*/bin/python --compile-bytecode --require-hashes -r $<
	@touch $@

$(SERVING_PEERS)/grpc_load: $(wildcard loadtests/grpc_load/*) $(SERVING_PEERS)/.installed
	@command -v go >/dev/null || { echo "Go 1.25 or newer is missing, which the load generator is built with"; exit 1; }
	cd loadtests/grpc_load && go build -o ../../$@ .

lock: .venv/.installed ## bring requirements.lock and the peers' locks up to date with the manifests
	$(LOCK) loadtests/peers.in -o loadtests/peers.lock
	$(LOCK) loadtests/peers-serving.in -o loadtests/peers-serving.lock
	$(LOCK) --group dev $(OURS) $(addsuffix /pyproject.toml,$(DISTS)) -o requirements.lock
	$(LOCK) --extra torch -c requirements.lock $(OURS) services/trainer/pyproject.toml -o requirements-torch.lock

protos: setup ## generate the messages and stubs from protos/
	$(PY) -m grpc_tools.protoc -I protos --plugin=protoc-gen-mypy=.venv/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc --python_out=libs/contracts \
	  --mypy_out=quiet:libs/contracts --grpc_python_out=libs/contracts --mypy_grpc_out=quiet:libs/contracts \
	  $$(find protos -name '*.proto' | sort)

docs: setup ## generate docs/topics.md, docs/asyncapi.yaml and docs/configuration.md
	$(PY) docs/generate.py

example-clients: setup ## build the examples in Go and Java from the protos, and have them ask a real door
	$(PY) docs/examples/clients/check.py

notebook: setup ## execute docs/notebooks in a Trimtab of their own, and keep the outputs
	$(PY) docs/notebooks/make.py

lint: setup ## ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup ## mypy --strict
	.venv/bin/mypy $(PACKAGES) loadtests

imports: setup ## the rooms: import contracts
	.venv/bin/lint-imports
