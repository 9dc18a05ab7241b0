#!/bin/sh
# Run the update server in docker: docker-run.sh [PORT [DIRECTORY]]

set -eu

port=${1:-8151}
directory=${2:-/var/opq/box-updates}

fail() {
    echo "docker-run.sh: $*" >&2
    exit 1
}

case $port in '' | *[!0-9]*) fail "the port must be a number, not $port." ;; esac
case $directory in
    *,*) fail "docker cannot mount $directory: its path must not hold a comma." ;;
esac
[ -d "$directory" ] || fail "there is no directory $directory: create it, the updates belong there."

exec docker run --detach --name opq-box-update-server --restart unless-stopped \
    --read-only --cap-drop ALL --security-opt no-new-privileges \
    --ulimit nofile=20000:20000 \
    --publish "$port:8151" \
    --mount "type=bind,source=$(readlink -f "$directory"),target=/var/opq/box-updates,readonly" \
    openpowerquality/opqboxupdateserver
