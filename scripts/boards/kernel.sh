#!/bin/sh
# Unpacks Debian's kernel for arm64 and a shell for it below FOLDER; installs nothing.
#
#   scripts/boards/kernel.sh FOLDER [SUITE]
#
# The kernel is the one for virtual machines (linux-image-cloud-arm64), which is the smaller one, of SUITE (default: trixie),
# its modules unpacked; the shell is busybox, which needs no library. Needs Debian's apt. FOLDER/ready names the version.
set -eu
[ $# -ge 1 ] || {
    sed -n '2,7p' "$0"
    exit 2
}
. "$(dirname "$0")/debian.sh"
rm -f "$1/ready"
debian "$1" "${2:-trixie}" arm64
kernel=$(depends linux-image-cloud-arm64 '^linux-image-[0-9]')
[ -n "$kernel" ] || fail "expected linux-image-cloud-arm64 to depend on a kernel in $suite, found no such package"
rm -rf "$folder/root"
mkdir "$folder/root"
unpack "$kernel" busybox-static
find "$folder/root" -name '*.ko.xz' -exec xz --decompress {} +
# Last, so that its being there means that all is.
echo "${kernel#linux-image-}" >"$folder/ready"
