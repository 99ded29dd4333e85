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
test: ## All tests; installs RabbitMQ, PostgreSQL, Prometheus, faketime and strace if there are none
	deploy/broker install
	deploy/database install
	deploy/package prometheus promtool
	deploy/package faketime faketime
	deploy/package strace strace
	cargo test --locked --workspace

.PHONY: bench
bench: ## Measure against a bare relay; writes target/bench.json (ARGS="--quick throughput")
	deploy/broker install
	mkdir -p target/bench
	trap 'deploy/broker stop target/bench/broker' EXIT; \
	AMQP_URL=$$(deploy/broker start target/bench/broker) cargo bench --locked --bench bench -- $(ARGS)

.PHONY: check
check: lint test ## Everything that a change has to pass

.PHONY: lint
lint: ## Format, clippy and documentation, without a change
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: clean-demo
clean-demo: ## Remove the demo's data
	@[ ! -d target/demo/broker ] || deploy/broker stop target/demo/broker
	rm -rf target/demo
