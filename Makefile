# SPDX-License-Identifier: Apache-2.0
# A thin front of meson and ninja; see CONTRIBUTING.md. CC=clang chooses another compiler,
# BUILD=folder another place, MESON_FLAGS more options (-Dbuildtype=debug, -Db_sanitize=address).
BUILD ?= build
MESON_FLAGS ?=
PREFIX ?= /usr/local
DESTDIR ?=
# Make's own default for CC is no wish.
ifneq ($(filter default undefined,$(origin CC)),)
unexport CC
else
export CC
endif

all: configure
	@ninja -C $(BUILD)

configure:
	@tools/configure $(BUILD) $(MESON_FLAGS)

# The kernels are built once and kept outside the clone; the flat guests come with `all`.
guest: all
	guest/linux/build --out $(BUILD)/guest
	guest/linux/fetch-debian --out $(BUILD)/guest

demo:
	./demo

check:
	./check

# Some minutes less than check: no Linux guests, sanitizers or fuzzers.
pre-push:
	./check --fast

# The prefix is meson's business only when installing, so that builds need not be made anew.
install: all
	meson configure $(BUILD) -Dprefix=$(abspath $(PREFIX))
	DESTDIR=$(DESTDIR) meson install -C $(BUILD)

format:
	clang-format -i $$(tools/sources c)

clean:
	rm -rf $(BUILD)

.PHONY: all configure guest demo check pre-push install format clean
