# `make` alone lists the targets.
SHELL := bash
.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Show it at work: RabbitMQ, simulated providers, a worker, thirty requests
	@deploy/demo

.PHONY: test
test: ## All tests; installs RabbitMQ, PostgreSQL, Prometheus and the like if there are none
	deploy/broker install
	deploy/database install
	deploy/package prometheus promtool
	deploy/package faketime faketime
	deploy/package strace strace
	deploy/package openssl openssl
	cargo test --locked --workspace

.PHONY: bench
bench: ## Measure against a bare relay; writes target/bench.json (ARGS="--quick throughput")
	deploy/broker install
	mkdir -p target/bench
	trap 'deploy/broker stop target/bench/broker' EXIT; \
	AMQP_URL=$$(deploy/broker start target/bench/broker) cargo bench --locked --bench bench -- $(ARGS)

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
deny: ## Licences, bans, sources and advisories of all dependencies (deny.toml)
	@PATH="$$PATH:$(TOOLS)/bin" command -v cargo-deny >/dev/null || \
		cargo install --locked --debug --root "$(TOOLS)" cargo-deny@0.20.2
	@$(DENY) check bans licenses sources
	@# The advisories are a repository of their own. Without a way to it the other checks still count.
	@if timeout 60 env $(DENY) fetch db >/dev/null 2>&1; then \
		$(DENY) --offline check advisories; \
	else \
		echo "deny: the database of advisories cannot be reached; advisories were NOT checked"; \
	fi

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: clean-demo
clean-demo: ## Remove the demo's data
	@[ ! -d target/demo/broker ] || deploy/broker stop target/demo/broker
	rm -rf target/demo
