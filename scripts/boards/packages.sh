#!/bin/sh
# Says which programs a chore with boards lacks, and installs Debian's packages of them when told to (as root).
#
#   scripts/boards/packages.sh [--install] CHORE…     cross, boards or board: those of cargo xtask
#
# Exits with 1 if something is missing still.
set -eu
install=
[ "${1:-}" != --install ] || {
    install=1
    shift
}
[ $# -ge 1 ] || {
    sed -n '2,6p' "$0"
    exit 2
}

# What building for arm64 takes, then what each chore takes besides.
packages='gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
programs='aarch64-linux-gnu-gcc'
for chore; do
    case $chore in
    cross) ;;
    boards)
        packages="$packages qemu-user"
        programs="$programs qemu-aarch64"
        ;;
    board)
        packages="$packages qemu-system-arm e2fsprogs util-linux xz-utils"
        programs="$programs qemu-system-aarch64 mke2fs setpriv xz"
        ;;
    *)
        echo "expected cross, boards or board, found $chore" >&2
        exit 2
        ;;
    esac
done
# mke2fs is for root, by its place, but not by what it does.
PATH=$PATH:/usr/sbin:/sbin

missing() {
    for program in $programs; do
        command -v "$program" >/dev/null || echo "expected the program $program, found none on PATH"
    done
    # Without its package the compiler gives back the bare name.
    case $(aarch64-linux-gnu-gcc -print-file-name=crt1.o 2>/dev/null) in
    crt1.o) echo 'expected the C library of arm64 beside aarch64-linux-gnu-gcc, found none' ;;
    esac
}

if [ -n "$(missing)" ] && [ -n "$install" ]; then
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
