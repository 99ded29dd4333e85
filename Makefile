# `make` alone lists the targets.
SHELL := bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Show it at work: RabbitMQ, simulated providers, a worker, 34 messages
	@deploy/demo

# Most tests wait for a broker, a database or a clock for most of their time: three at once on two cores.
.PHONY: test
test: ## All tests; installs RabbitMQ, PostgreSQL, Prometheus and the like if there are none
	deploy/broker install
	deploy/database install
	deploy/package prometheus promtool
	deploy/package faketime faketime
	deploy/package strace strace
	deploy/package openssl openssl
	RUST_TEST_THREADS=3 cargo test --locked --workspace

.PHONY: bench
bench: ## Measure against a bare relay; writes target/bench.json (ARGS="--quick throughput", ARGS=--help)
	deploy/broker install
	deploy/database install
	cargo bench --locked --bench bench --no-run
	mkdir -p target/bench
	trap 'deploy/broker stop target/bench/broker; deploy/database stop target/bench/database' EXIT; \
	AMQP_URL=$$(deploy/broker start target/bench/broker) && \
	DATABASE_URL=$$(deploy/database start target/bench/database) && \
	export AMQP_URL DATABASE_URL && cargo bench --locked --bench bench -- $(ARGS)

# How long, which faults, which ledger (sqlite, postgres, both), and where the report goes.
MINUTES ?= 30
SEED ?= 1
LEDGER ?= both
REPORT ?= target/chaos-report.md

.PHONY: chaos
chaos: ## Real parts under faults (MINUTES=30 SEED=1 LEDGER=both REPORT=target/chaos-report.md)
	deploy/broker install
	deploy/database install
	mkdir -p target
	cargo test --release --locked --test chaos -- run --minutes $(MINUTES) --seed $(SEED) --ledger $(LEDGER) --report $(REPORT)

# Optimised is what is hot, the model itself: the other crates are those of `make test`.
.PHONY: model
model: ## Explore the lifecycle with a modelled world: every path of tens of millions of states
	MODEL=large cargo test --locked --config profile.dev.package.rescind.opt-level=3 \
	  --test model -- --nocapture --test-threads=1

.PHONY: sabotage
sabotage: ## Break one rule at a time and show that the tests catch each (ONLY="name ...")
	deploy/broker install
	deploy/database install
	tests/sabotage/run $(ONLY)

.PHONY: mutants
mutants: ## Change files at every place and see whether a test notices (FILE=src/gate.rs ARGS="--shard 0/4")
	tests/sabotage/mutants $(FILE) $(ARGS)

.PHONY: check
check: lint test ## Everything that a change has to pass

.PHONY: lint
lint: deny ## Format, clippy, documentation and dependencies, without a change
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

# One and a half minutes of one core, once; not optimised, since it runs for a second.
TOOLS := $(CURDIR)/target/tools
DENY := PATH="$$PATH:$(TOOLS)/bin" cargo-deny --locked

.PHONY: deny
deny: cargo-deny ## Licences, bans and sources of all dependencies (deny.toml)
	@$(DENY) check bans licenses sources

# Not part of lint: a new advisory is news, and no fault of the change that is being tested.
.PHONY: advisories
advisories: cargo-deny ## Known vulnerabilities of the dependencies; needs the network
	@$(DENY) check advisories

.PHONY: cargo-deny
cargo-deny:
	@PATH="$$PATH:$(TOOLS)/bin" command -v cargo-deny >/dev/null || \
		cargo install --locked --debug --root "$(TOOLS)" cargo-deny@0.20.2

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: clean-demo
clean-demo: ## Remove the demo's data
	@[ ! -d target/demo/broker ] || deploy/broker stop target/demo/broker
	rm -rf target/demo
