#!/bin/sh
# Unpacks Debian's rustc with the standard libraries of amd64 and arm64 below FOLDER; installs nothing.
#
#   scripts/boards/toolchain.sh FOLDER [SUITE]
#
# For machines where `rustup target add` has no server: a standard library serves only the very build of rustc that made
# it, so that the compiler has to come along. Runs with the C library of its SUITE (default: forky), beside the one that
# is installed. Needs Debian's apt; about a minute, 170 MB to fetch, 900 MB unpacked. FOLDER/bin/rustc is the compiler.
set -eu
[ $# -ge 1 ] || { sed -n '2,8p' "$0"; exit 2; }
fail() {
    echo "$1" >&2
    exit 1
}

suite=${2:-forky}
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ "$(uname -m)" = x86_64 ] || fail "expected an x86-64 machine, found $(uname -m); on others rustup target add"
[ -r "$keys" ] || fail "expected the keys of Debian's packages at $keys, found none; install debian-archive-keyring"
# The mirror that this machine uses already.
mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *//p' | grep -m 1 '/debian/*$' ||
    awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /\/debian\/*$/) { print $i; exit } }' /etc/apt/sources.list)
[ -n "$mirror" ] || fail "expected a mirror of Debian in apt's sources, found none; or rustup target add"

mkdir -p "$1"
folder=$(cd "$1" && pwd)
state=$folder/apt
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/state" "$folder/debs" "$folder/root" "$folder/bin"
rm -f "$folder"/debs/*.deb "$folder/bin/rustc"
: >"$state/status"
echo "deb [signed-by=$keys] $mirror $suite main" >"$state/sources.list"
cat >"$state/apt.conf" <<CONF
Dir::State "$state/state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "-";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
CONF
export APT_CONFIG="$state/apt.conf"
apt-get -qq update || fail "expected apt to reach $suite on this machine's mirror; without a network there is no toolchain"

# The compiler is a small program and a library, of a name with a version, which needs the LLVM it was built with.
depends() {
    apt-cache depends "$1" | awk -v pattern="$2" '$1 == "Depends:" && $2 ~ pattern { print $2; exit }'
}
library=$(depends libstd-rust-dev '^libstd-rust-[0-9]')
[ -n "$library" ] || fail "expected libstd-rust-dev to depend on the compiler's library in $suite, found no such package"
llvm=$(depends "$library" '^libllvm')
needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$llvm" | grep '^[a-z]' | grep -v : | sort -u)
cd "$folder/debs"
# shellcheck disable=SC2086
apt-get -qq download rustc "$library" libstd-rust-dev:amd64 libstd-rust-dev:arm64 $needed
for deb in *.deb; do
    dpkg-deb --extract "$deb" "$folder/root"
    rm "$deb"
done
usr=$folder/root/usr
cat >"$folder/rustc" <<WRAP
#!/bin/sh
exec "$usr/lib64/ld-linux-x86-64.so.2" --library-path "$usr/lib/x86_64-linux-gnu" --argv0 "$usr/bin/rustc" \\
    "$usr/bin/rustc" --sysroot "$usr" "\$@"
WRAP
chmod +x "$folder/rustc"
"$folder/rustc" --version
# Last, so that its being there means that all is.
mv "$folder/rustc" "$folder/bin/rustc"
