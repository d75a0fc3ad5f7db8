#!/bin/sh
# First boot of a board whose card `graft provision` has prepared: installs what lies beside this script, and takes itself
# out of cmdline.txt. What it did is in first-boot.log beside it.
#
# systemd runs it in kernel-command-line.target and starts the board anew when it ends well. Where it does not, the board is
# switched off: so it ends well, and boots as usual, even where nothing could be installed, and fails only where cmdline.txt
# could not be written, for else the board would start anew for ever. A cut at any point is mended by the next start. With
# DESTDIR set it installs below that folder and leaves users and systemd alone, for tests.
set -u
here=$(cd "$(dirname "$0")" && pwd)
boot=$(dirname "$here")
root=${DESTDIR:-}

# Runs in a shell of its own: -e would have no effect in a condition of this one.
install_all() {
    set -e
    cd "$here"
    # A write of these files that was cut off must not be installed.
    sha256sum -c SHA256SUMS
    if [ ! -e "$root/etc/graft/graftd.toml" ]; then
        mkdir -p "$root/etc/graft"
        cp graftd.toml "$root/etc/graft/graftd.toml.new"
        chmod 644 "$root/etc/graft/graftd.toml.new"
        mv "$root/etc/graft/graftd.toml.new" "$root/etc/graft/graftd.toml"
    fi
    sh ./install-device.sh --no-start ./graftd
    # Only one that is in the list belongs to this provisioning. It runs at the next start; without it the board waits for a flash.
    if [ -z "$root" ] && grep -q ' bundle.graft$' SHA256SUMS; then
        install -d -o graft -g graft /var/lib/graft
        runuser -u graft -- /usr/local/bin/graftd factory "$here/bundle.graft" ||
            echo "first-boot.sh: the bundle was refused, see above; flash one with graft flash"
    fi
    sync
}

# Prints cmdline.txt without this script, and without a login console on the port that graftd listens on.
cleaned() {
    port=
    if [ "$1" = installed ]; then
        port=$(sed -n 's|^listen = \["/dev/\([A-Za-z0-9]*\).*|\1|p' "$root/etc/graft/graftd.toml")
    fi
    case $port in
    serial0 | ttyS0 | ttyAMA0) console='serial0\|ttyS0\|ttyAMA0' ;;
    *) console='none-of-them' ;;
    esac
    sed -e ':again' \
        -e "s/\(^\| \)console=\($console\)\(,[0-9a-z]*\)\{0,1\}\( \|\$\)/\1/" -e 't again' \
        -e 's| systemd\.run=[^ ]*/graft/first-boot\.sh||' \
        -e '/ systemd\.run=/!s| systemd\.run_success_action=reboot||' \
        -e '/ systemd\.run=/!s| systemd\.unit=kernel-command-line\.target||' "$boot/cmdline.txt"
}

if [ "${1:-}" = install ]; then
    install_all
    exit
fi
if sh "$0" install >"$here/first-boot.log" 2>&1; then
    outcome=installed
else
    outcome=failed
fi
echo "first-boot.sh: $outcome" >>"$here/first-boot.log"
cleaned $outcome >"$boot/cmdline.new" || exit 1
[ -s "$boot/cmdline.new" ] || exit 1
sync
mv "$boot/cmdline.new" "$boot/cmdline.txt" || exit 1
sync
