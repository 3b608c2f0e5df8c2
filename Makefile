# The commands of the project. `make check` writes nothing and is what CI runs first; `make fix` and `make generate` write.
.PHONY: help demo test test-long check fix fuzz generate bench image cluster cluster-stop stories unit install advisories

# What is slow to build lives outside the repository, shared by all checkouts.
export PENSTOCK_CACHE ?= $(HOME)/.cache/penstock
export CARGO_TARGET_DIR ?= $(PENSTOCK_CACHE)/target
CARGO_RUN = cargo run --release --quiet

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: ## the main job without Kubernetes: a dataset in S3, mounted, read twice, compared (needs root)
	e2e/demo/run

test: check unit stories ## everything: checks, unit, property, integration, csi-sanity, stories on a real cluster (needs root)

test-long: ## the same tests with larger numbers (hours)
	PENSTOCK_LONG=1 PROPTEST_CASES=5000 $(MAKE) test
	PENSTOCK_FORM=loop e2e/stories
	PENSTOCK_FORM=fuse e2e/stories

check: ## format, lints, documentation, licences, generated files; writes nothing
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --quiet
	"$$(e2e/tools/get cargo-deny)" --log-level error check licenses bans sources
	"$$(e2e/tools/get helm)" lint --strict charts/penstock

unit: ## unit, property and integration tests, csi-sanity, fuzzing for seconds (needs root)
	e2e/tools/debian tests
	cargo test --release --workspace --all-features --exclude penstock-e2e
	fuzz/run

fuzz: ## whatever reads bytes of others is tried with any bytes, some seconds each
	fuzz/run

stories: ## the stories on a real two-node Kubernetes (needs root)
	e2e/stories

image: ## the product's image, target/image/penstock.tar
	e2e/image

cluster: ## leaves a real two-node Kubernetes running, the chart installed, an S3 origin beside it (needs root)
	e2e/playground up

cluster-stop: ## ends what `make cluster` started
	e2e/playground down

bench: ## ratios against references in the same run; fails when one misses its goal (needs root)
	e2e/tools/debian bench
	$(CARGO_RUN) -p penstock-bench

generate: ## rewrites the generated files
	$(CARGO_RUN) -p penstock-crds --bin crdgen -- --write

fix: ## formats and applies machine-made suggestions
	cargo fmt --all
	cargo clippy --release --workspace --all-targets --all-features --fix --allow-dirty --allow-staged

PREFIX ?= /usr/local

install: ## penstock, and the plugin of kubectl that it is too, into PREFIX/bin
	cargo build --release -p penstock
	install -D -m 755 "$$CARGO_TARGET_DIR/$$(rustc -vV | sed -n 's/^host: //p')/release/penstock" "$(DESTDIR)$(PREFIX)/bin/penstock"
	ln -sf penstock "$(DESTDIR)$(PREFIX)/bin/kubectl-penstock"

advisories: ## known faults of dependencies (needs the network)
	"$$(e2e/tools/get cargo-deny)" check advisories
