# Debian's packages for other machines, unpacked in a folder; installs nothing. Read by toolchain.sh and kernel.sh.
# shellcheck shell=sh

fail() {
    echo "$1" >&2
    exit 1
}

# debian FOLDER SUITE ARCHITECTURE…: has apt work on a state of its own in FOLDER, as on a machine of the first architecture
# that knows the others too, and sets `folder`. Packages come from the mirror that this machine uses already.
debian() {
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$keys" ] || fail "expected the keys of Debian's packages at $keys, found none; install debian-archive-keyring"
    mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *//p' | grep -m 1 '/debian/*$' ||
        awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /\/debian\/*$/) { print $i; exit } }' /etc/apt/sources.list)
    [ -n "$mirror" ] || fail "expected a mirror of Debian in apt's sources, found none"
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
    suite=$2
    shift 2
    state=$folder/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/state" "$folder/debs" "$folder/root"
    rm -f "$folder"/debs/*.deb
    : >"$state/status"
    echo "deb [signed-by=$keys] $mirror $suite main" >"$state/sources.list"
    cat >"$state/apt.conf" <<CONF
Dir::State "$state/state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "$1";
APT::Architectures { $(printf '"%s"; ' "$@")};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
CONF
    export APT_CONFIG="$state/apt.conf"
    apt-get -qq update || fail "expected apt to reach $suite on this machine's mirror; without a network there are no packages"
}

# Prints the first package that package $1 depends on whose name matches $2.
depends() {
    apt-cache depends "$1" | awk -v pattern="$2" '$1 == "Depends:" && $2 ~ pattern { print $2; exit }'
}

# Fetches packages and unpacks them in $folder/root.
unpack() {
    (cd "$folder/debs" && apt-get -qq download "$@")
    for deb in "$folder"/debs/*.deb; do
        dpkg-deb --extract "$deb" "$folder/root"
        rm "$deb"
    done
}
