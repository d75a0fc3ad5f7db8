#!/bin/sh
# Unpacks Debian's rustc with the standard libraries of amd64 and arm64 below FOLDER; installs nothing.
#
#   scripts/boards/toolchain.sh FOLDER [SUITE]
#
# For machines where `rustup target add` has no server: a standard library serves only the very build of rustc that made
# it, so that the compiler has to come along. Runs with the C library of its SUITE (default: forky), beside the one that
# is installed. Needs Debian's apt; about a minute, 170 MB to fetch, 900 MB unpacked. FOLDER/bin/rustc is the compiler.
set -eu
[ $# -ge 1 ] || {
    sed -n '2,8p' "$0"
    exit 2
}
. "$(dirname "$0")/debian.sh"
[ "$(uname -m)" = x86_64 ] || fail "expected an x86-64 machine, found $(uname -m); on others rustup target add"
rm -f "$1/bin/rustc"
debian "$1" "${2:-forky}" amd64 arm64

# The compiler is a small program and a library, of a name with a version, which needs the LLVM it was built with.
library=$(depends libstd-rust-dev '^libstd-rust-[0-9]')
[ -n "$library" ] || fail "expected libstd-rust-dev to depend on the compiler's library in $suite, found no such package"
llvm=$(depends "$library" '^libllvm')
needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$llvm" | grep '^[a-z]' | grep -v : | sort -u)
# shellcheck disable=SC2086
unpack rustc "$library" libstd-rust-dev:amd64 libstd-rust-dev:arm64 $needed
usr=$folder/root/usr
cat >"$folder/rustc" <<WRAP
#!/bin/sh
exec "$usr/lib64/ld-linux-x86-64.so.2" --library-path "$usr/lib/x86_64-linux-gnu" --argv0 "$usr/bin/rustc" \\
    "$usr/bin/rustc" --sysroot "$usr" "\$@"
WRAP
chmod +x "$folder/rustc"
"$folder/rustc" --version
# Last, so that its being there means that all is.
mkdir -p "$folder/bin"
mv "$folder/rustc" "$folder/bin/rustc"
