#!/bin/sh
# Says which programs `cargo xtask boards` lacks, and installs Debian's packages of them when told to (as root).
#
#   scripts/boards/packages.sh [--install]
#
# Exits with 1 if something is missing still.
set -eu
packages='qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross'

missing() {
    for program in qemu-aarch64 aarch64-linux-gnu-gcc; do
        command -v "$program" >/dev/null || echo "expected the program $program, found none on PATH"
    done
    # Without its package the compiler gives back the bare name.
    case $(aarch64-linux-gnu-gcc -print-file-name=crt1.o 2>/dev/null) in
    crt1.o) echo 'expected the C library of arm64 beside aarch64-linux-gnu-gcc, found none' ;;
    esac
}

if [ -n "$(missing)" ] && [ "${1:-}" = --install ]; then
    export DEBIAN_FRONTEND=noninteractive
    # A machine without a network is told so soon.
    options='-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=60'
    # shellcheck disable=SC2086
    apt-get $options update || true
    # shellcheck disable=SC2086
    apt-get $options install --yes --no-install-recommends $packages >/dev/null || true
fi
found=$(missing)
[ -z "$found" ] || {
    echo "$found"
    echo "as root: apt-get install $packages"
    exit 1
}
