#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The part of guest/linux/build that compiles. It is a file of its own because all of it, and
# nothing else of the script, decides what the products are: the cache's key covers this file.
#
# usage: compile.sh VARIANT SOURCE-TARBALL WORK-FOLDER JOBS
#
# VARIANT is default or noacpi; the products are left in WORK-FOLDER/stage.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here variant=$1 source_file=$2 work=$3 jobs=$4 stage=$3/stage
# Of each compression: the kernel's own name, the suffix of the product.
readonly compressions=(XZ:.xz LZMA:.lzma LZ4:.lz4 ZSTD:.zst)

# Everything from outside that would steer the kernel's makefiles.
clean_environment() {
	unset MAKEFLAGS MFLAGS MAKELEVEL ARCH CROSS_COMPILE CC LD KCFLAGS KCPPFLAGS KAFLAGS \
		INSTALL_HDR_PATH O V W
	export LC_ALL=C KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC' KBUILD_BUILD_USER=kvick \
		KBUILD_BUILD_HOST=kvick KBUILD_BUILD_VERSION=1
	umask 022
}

# The parts of the source that no x86 guest kernel is made of are most of its bytes.
unpack() {
	local skip=(drivers/gpu drivers/media drivers/staging drivers/accel drivers/infiniband
		drivers/net/ethernet drivers/net/wireless sound)
	local arches=(alpha arc arm arm64 csky hexagon loongarch m68k microblaze mips nios2
		openrisc parisc powerpc riscv s390 sh sparc um xtensa)
	local options=() d
	# The Kconfig files stay: those of x86 read some of other machines.
	for d in "${skip[@]}" "${arches[@]/#/arch/}"; do
		options+=(--exclude="*/$d/*.[chS]")
	done
	for d in 'arch/*/boot/dts' tools/perf tools/testing Documentation/devicetree; do
		options+=(--exclude="*/$d/*")
	done
	mkdir "$work/src"
	tar -C "$work/src" --strip-components=1 "${options[@]}" -xf "$source_file"
}

kmake() {
	nice make -s -C "$work/src" O="$work/obj" ARCH=x86_64 -j "$jobs" "$@"
}

# Makes the configuration from fragments, later lines before earlier ones, and makes sure that
# each line became true: a misspelt or unmet option would otherwise be dropped without a word.
configure() {
	local line name bad=0
	declare -A wanted=()
	cat "$@" >"$work/fragment"
	while IFS= read -r line; do
		case $line in
		CONFIG_*) name=${line%%=*} ;;
		'# CONFIG_'*' is not set') name=${line#\# } name=${name%% *} ;;
		*) continue ;;
		esac
		wanted[$name]=$line
	done <"$work/fragment"
	printf '%s\n' "${wanted[@]}" | LC_ALL=C sort >"$work/fragment"
	kmake KCONFIG_ALLCONFIG="$work/fragment" allnoconfig >"$work/log" 2>&1 || return 1
	for name in "${!wanted[@]}"; do
		line=${wanted[$name]}
		if [[ $line == '#'* ]]; then
			! grep -q "^$name=" "$work/obj/.config" && continue
		else
			grep -qxF "$line" "$work/obj/.config" && continue
		fi
		printf "guest/linux/build: the configuration did not take '%s'\n" "$line" >&2
		bad=1
	done
	return $bad
}

# The names of the noacpi variant's products end in its name.
build_kernel() {
	local fragments=("$here/kernel.config") suffix=
	if [[ $variant != default ]]; then
		fragments+=("$here/$variant.config")
		suffix=-$variant
	fi
	configure "${fragments[@]}"
	kmake bzImage >"$work/log" 2>&1
	cp "$work/obj/vmlinux" "$stage/vmlinux$suffix"
	cp "$work/obj/System.map" "$stage/System.map$suffix"
	cp "$work/obj/.config" "$stage/config$suffix"
	cp "$work/obj/arch/x86/boot/bzImage" "$stage/bzImage$suffix"
	kmake kernelrelease >"$stage/version"
}

# Only the boot loader part of the kernel is made anew, around the same vmlinux.
build_compressions() {
	local c previous=KERNEL_GZIP
	for c in "${compressions[@]}"; do
		"$work/src/scripts/config" --file "$work/obj/.config" --disable "$previous" \
			--enable "KERNEL_${c%:*}"
		previous=KERNEL_${c%:*}
		kmake bzImage >"$work/log" 2>&1
		grep -qx "CONFIG_$previous=y" "$work/obj/.config"
		# All of them are to hold the kernel whose symbols the tests know.
		cmp "$work/obj/vmlinux" "$stage/vmlinux"
		cp "$work/obj/arch/x86/boot/bzImage" "$stage/bzImage${c#*:}"
	done
}

# What guest/init is compiled with: nolibc and the kernel's headers for user space.
build_sysroot() {
	make -s -C "$work/src/tools/include/nolibc" ARCH=x86_64 OUTPUT="$stage/" headers
	kmake headers_install INSTALL_HDR_PATH="$stage/sysroot" >"$work/log" 2>&1
	cp "$work/obj/usr/gen_init_cpio" "$stage/"
}

main() {
	local step steps=(unpack build_kernel)
	[[ $variant != default ]] || steps+=(build_compressions build_sysroot)
	clean_environment
	mkdir "$work/obj" "$stage"
	for step in "${steps[@]}"; do
		printf 'guest/linux/build: %s: %s\n' "$variant" "${step//_/ }"
		"$step"
	done
}

main
