# `make demo` shows the program at work, `make test` checks everything. Both install what they need on Debian.

SHELL := /bin/bash
CARGO ?= cargo
ROOT  := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# What the program itself uses.
PACKAGES_RUN  := iptables iproute2 kmod procps
# What builds it: a C compiler and linker for ring.
PACKAGES_BUILD := gcc libc6-dev
# Docker's own package has the same programs, and apt would remove it and Docker for the sake of Debian's.
CONTAINERD := $(shell command -v containerd >/dev/null || echo containerd)
# What the tests read the kernel back with, so that they do not rely on this project's own readers.
# The kernel of the host may lack IPVS, so that its cases run in a guest kernel.
PACKAGES_TEST := $(PACKAGES_RUN) $(PACKAGES_BUILD) nftables conntrack prometheus ipset ipvsadm user-mode-linux \
	iputils-arping iputils-ping containernetworking-plugins podman crun strace curl python3 python3-pip $(CONTAINERD)

# What the userspace mode is measured beside.
PACKAGES_BENCH := haproxy nginx-light libnginx-mod-stream

.PHONY: all build demo test lint check unit bench clean packages-run packages-test packages-bench pyroute2 cargo-deny

all: build

build:
	$(CARGO) build --release

demo: packages-run
	$(CARGO) build --quiet
	target/debug/ferrovia demo $(ARGS)

test: packages-test pyroute2 lint unit

# Everything that needs no privileges and no packages.
lint: cargo-deny
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --quiet -- -D warnings
	$(CARGO) deny --log-level error check licenses bans sources

# The privileged tests use network namespaces of their own.
unit:
	$(CARGO) test --no-run --quiet
	CARGO=$(CARGO) tests/run.sh

bench: packages-test packages-bench
	$(CARGO) bench

packages-run:
	@$(call install,$(PACKAGES_RUN) $(PACKAGES_BUILD))

packages-test:
	@$(call install,$(PACKAGES_TEST))

packages-bench:
	@$(call install,$(PACKAGES_BENCH))

# For the tests alone, and seen by nothing else.
PYTHON_LIBRARY := $(or $(CARGO_TARGET_DIR),target)/python
pyroute2: $(PYTHON_LIBRARY)/pyroute2

$(PYTHON_LIBRARY)/pyroute2: tests/ipvs/requirements.txt
	@rm -rf $(PYTHON_LIBRARY)
	@python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
		--no-deps --only-binary :all: --require-hashes --target $(PYTHON_LIBRARY) --requirement $<
	@touch $@

cargo-deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --quiet cargo-deny

clean:
	$(CARGO) clean

# Installs the packages of $(1) that are missing, and asks the archive only then.
define install
missing=; for package in $(1); do \
	dpkg-query --show --showformat='$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' \
		|| missing="$$missing $$package"; \
done; \
if [ -n "$$missing" ]; then \
	echo "installing:$$missing"; \
	$(ROOT) apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $(ROOT) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
fi
endef
