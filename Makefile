# Everything runs on a fresh Debian or Ubuntu with Rust and git: each target installs what it misses.

.PHONY: help demo test soak bench lint ci clean install-deps

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: install-deps ## Tell the whole story on an embedded PostgreSQL and S3, in about a minute
	cargo build
	@target/debug/tenantry demo

test: ## Run the whole suite
	@.ci/test

soak: ## A quarter of an hour of bad weather, a hundred deaths of three workers, a thousand faults before the bucket
	@.ci/bootstrap tests
	TENANTRY_SOAK_SECONDS=900 TENANTRY_SOAK_SEED=$$(date +%s) cargo test --test suite soak:: -- --nocapture
	TENANTRY_CRASH_ROUNDS=100 cargo test --test suite rollouts::crash:: -- --nocapture
	TENANTRY_CRASH_ROUNDS=100 cargo test --test suite online::deaths:: -- --nocapture
	TENANTRY_FAULTS=1000 TENANTRY_FAULTS_SEED=$$(date +%s) cargo test --test suite faults::no_fault -- --nocapture

bench: ## Measure against plain PostgreSQL tools and PgBouncer in the same run
	@.ci/bootstrap bench
	cargo bench --bench audit --bench backups --bench drain --bench fleet --bench identity --bench relocation --bench rollouts --bench router --bench sql --bench tenants

lint: install-deps ## Check format, clippy and documentation; warnings are errors
	@.ci/lint

ci: ## Do what CI does: lint, dependencies, tests, and a count of the tests
	@.ci/run

clean: ## Remove what was built
	cargo clean

install-deps: ## Install missing packages (apt-get); silent when nothing is missing
	@.ci/bootstrap
