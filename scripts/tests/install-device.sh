#!/bin/sh
# Checks scripts/install-device.sh in a folder of its own: what it installs, and that a second run changes nothing.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "install-device test: $1" >&2; exit 1; }
expect() { grep -q "$2" "$1" || fail "expected $2 in $1, found: $(cat "$1")"; }

binary=$(command -v sh)
binary=$(readlink -f "$binary")
key=graft-ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a
export DESTDIR="$work/root"
./install-device.sh --listen '/dev/ttyS0?baud=57600' --trust $key "$binary" >"$work/first"
cmp -s "$binary" "$DESTDIR/usr/local/bin/graftd" || fail "the binary was not installed"
expect "$DESTDIR/etc/graft/graftd.toml" "$key"
expect "$DESTDIR/etc/graft/graftd.toml" 'ttyS0?baud=57600'
expect "$DESTDIR/etc/systemd/system/graftd.service" WatchdogSec
echo '# mine' >>"$DESTDIR/etc/graft/graftd.toml"
before=$(find "$DESTDIR" -type f -exec cksum {} + | sort)
./install-device.sh --listen tcp://0.0.0.0:1 "$binary" >"$work/second"
[ "$before" = "$(find "$DESTDIR" -type f -exec cksum {} + | sort)" ] || fail "the second run changed files"
[ ! -s "$work/second" ] || fail "the second run claims to have done something: $(cat "$work/second")"
for bad in "$work/none" "$0"; do
    if ./install-device.sh "$bad" 2>"$work/error"; then fail "$bad was taken as a binary"; fi
    expect "$work/error" expected
done
if ./install-device.sh --trust nonsense "$binary" 2>"$work/error"; then fail "a wrong key was taken"; fi
expect "$work/error" 'public key'
./install-device.sh --uninstall >/dev/null
[ ! -e "$DESTDIR/usr/local/bin/graftd" ] || fail "the binary is still there"
expect "$DESTDIR/etc/graft/graftd.toml" '# mine'
echo "install-device.sh: ok"
