#!/bin/sh
# Installs graftd on a board: binary, configuration, user, systemd unit. Run it on the board, as root.
#
# A second run changes nothing that is right already, and never a configuration. With DESTDIR set it writes below that
# folder and leaves users and systemd alone, for images and for tests.
set -eu

usage() {
    cat <<'TEXT'
Usage: install-device.sh [--listen LINE] [--trust PUBLIC_KEY] [--no-start] BINARY
       install-device.sh --uninstall

Installs BINARY (a graftd built for this board) as a systemd service.

  --listen LINE       where hosts connect, for a new configuration [default: tcp://0.0.0.0:7878]
                      such as /dev/ttyS0?baud=115200 or /dev/ttyAMA0
  --trust PUBLIC_KEY  whose bundles are taken, for a new configuration: the text in KEYFILE.pub
  --no-start          leave the service for the next start of the board
  --uninstall         remove service and binary; configuration and data stay
  --help              this text

Example:
  sudo ./install-device.sh --listen '/dev/ttyS0?baud=115200' --trust graft-ed25519:... ./graftd
TEXT
}

fail() {
    echo "install-device.sh: $1" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
listen='tcp://0.0.0.0:7878'
trust=
binary=
uninstall=no
start=yes
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --listen) [ $# -ge 2 ] || fail "expected a line after --listen"; listen=$2; shift ;;
    --trust) [ $# -ge 2 ] || fail "expected a public key after --trust"; trust=$2; shift ;;
    --no-start) start=no ;;
    --uninstall) uninstall=yes ;;
    -*) usage >&2; exit 2 ;;
    *) [ -z "$binary" ] || fail "expected one binary, found $binary and $1"; binary=$1 ;;
    esac
    shift
done

live() { [ -z "$root" ]; }

if live && [ "$(id -u)" -ne 0 ]; then
    fail "expected to run as root; use sudo"
fi

if [ $uninstall = yes ]; then
    if live && command -v systemctl >/dev/null; then
        systemctl disable --now graftd.service 2>/dev/null || true
    fi
    rm -f "$root/etc/systemd/system/graftd.service" "$root/usr/local/bin/graftd"
    echo "removed graftd; /etc/graft and /var/lib/graft are left"
    exit 0
fi

[ -n "$binary" ] || { usage >&2; exit 2; }
[ -f "$binary" ] || fail "expected a file at $binary, found none"
# The ELF header's bytes 18 and 19 name the machine: a binary for another board would only fail later, and less clearly.
magic=$(od -An -tx1 -N4 "$binary" | tr -d ' \n')
[ "$magic" = 7f454c46 ] || fail "expected an ELF binary, found other bytes in $binary"
machine=$(od -An -tx1 -j18 -N2 "$binary" | tr -d ' \n')
case "$(uname -m)" in
aarch64 | arm64) expected=b700 ;;
armv7l | armv6l) expected=2800 ;;
x86_64) expected=3e00 ;;
*) expected=$machine ;;
esac
if live && [ "$machine" != "$expected" ]; then
    fail "expected a graftd built for $(uname -m), found ELF machine $machine instead of $expected"
fi
case $trust in
'' | graft-ed25519:????????????????????????????????????????????????????????????????) ;;
*) fail "expected a public key as in KEYFILE.pub (graft-ed25519: and 64 digits), found $trust" ;;
esac
case $listen in
*[\"\\]*) fail "expected a line without quotes and backslashes, found $listen" ;;
esac

# put MODE FROM TO: whole or not at all, and only if it differs.
put() {
    if cmp -s "$2" "$3"; then
        return
    fi
    mkdir -p "$(dirname "$3")"
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    mv "$3.new" "$3"
    echo "installed $3"
}

if live && ! id graft >/dev/null 2>&1; then
    useradd --system --home-dir /var/lib/graft --shell /usr/sbin/nologin graft
    echo "made user graft"
fi
if live; then
    # For panels and cameras; not each system has each of them.
    for group in spi i2c gpio; do
        if getent group "$group" >/dev/null; then usermod -aG "$group" graft; fi
    done
fi
put 755 "$binary" "$root/usr/local/bin/graftd"
put 644 "$here/graftd.service" "$root/etc/systemd/system/graftd.service"
if [ ! -e "$root/etc/graft/graftd.toml" ]; then
    fresh=$(mktemp)
    {
        echo '# Configuration of graftd; every key is in docs/architecture.md. Paths are relative to this folder.'
        echo "name = \"$(uname -n)\""
        echo 'root = "/var/lib/graft"'
        echo "listen = [\"$listen\"]"
        if [ -n "$trust" ]; then echo "trusted_keys = [\"$trust\"]"; else echo 'trusted_keys = []'; fi
        if live && [ -e /dev/fb0 ]; then echo 'display = "fb:/dev/fb0"'; else echo 'display = "none"'; fi
    } >"$fresh"
    put 644 "$fresh" "$root/etc/graft/graftd.toml"
    rm -f "$fresh"
fi
if live && command -v systemctl >/dev/null; then
    systemctl daemon-reload
    systemctl enable graftd.service
    if [ $start = yes ]; then
        systemctl restart graftd.service
        echo "graftd runs; see journalctl -u graftd"
    fi
fi
if ! grep -q 'graft-ed25519:' "$root/etc/graft/graftd.toml"; then
    echo "note: no key is trusted yet; put the text of KEYFILE.pub into trusted_keys of /etc/graft/graftd.toml"
fi
