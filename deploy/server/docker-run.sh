#!/bin/sh
# Run the update server in docker: docker-run.sh [PORT [DIRECTORY [KEY [PASSPHRASE_FILE]]]]
#
# With a KEY, the server signs DIRECTORY/tuf/timestamp.json, and runs as the owner of that folder.
# With a folder in the variable FLEET_DIR, which belongs to the server's user, there is a fleet.
# Other options of the server are in the variable OPTIONS, such as OPTIONS="--max-downloads 500".

set -euf

port=${1:-8151}
directory=${2:-/var/opq/box-updates}
key=${3:-}
passphrase=${4:-}
fleet=${FLEET_DIR:-}

fail() {
    echo "docker-run.sh: $*" >&2
    exit 1
}

case $#:${1:-} in
    1:--help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit
        ;;
    [0-4]:[!-]* | [0-4]:) ;;
    *)
        echo "docker-run.sh: it takes PORT, DIRECTORY, KEY and PASSPHRASE_FILE, or --help: $*" >&2
        exit 2
        ;;
esac

# Print the option that mounts $1 as $2.
mount() {
    case $1 in
        *,*) fail "docker cannot mount $1: its path must not hold a comma." ;;
    esac
    printf %s "--mount=type=bind,source=$(readlink -f "$1"),target=$2"
}

case $port in '' | *[!0-9]*) fail "the port must be a number, not $port." ;; esac
[ -d "$directory" ] || fail "there is no directory $directory: create it for the updates."

updates=$(mount "$directory" /var/opq/box-updates)
set -- "$updates,readonly"
options=${OPTIONS:-}
if [ -n "$key" ]; then
    [ -f "$key" ] || fail "there is no key $key."
    [ -d "$directory/tuf" ] || fail "there is no folder $directory/tuf: create it for the server."
    owner=$(stat -c %u:%g "$directory/tuf")
    case $owner in
        0:*) fail "$directory/tuf belongs to root: give it to the user that the server is to run as." ;;
    esac
    folder=$(mount "$directory/tuf" /var/opq/box-updates/tuf)
    secret=$(mount "$key" /run/secrets/timestamp-key)
    set -- "$@" --user "$owner" "$folder" "$secret,readonly"
    options="$options --timestamp-key /run/secrets/timestamp-key"
    if [ -n "$passphrase" ]; then
        [ -f "$passphrase" ] || fail "there is no file $passphrase."
        secret=$(mount "$passphrase" /run/secrets/timestamp-passphrase)
        set -- "$@" "$secret,readonly"
        options="$options --timestamp-passphrase-file /run/secrets/timestamp-passphrase"
    fi
fi

if [ -n "$fleet" ]; then
    [ -d "$fleet" ] || fail "there is no folder $fleet: create it for the server's user."
    folder=$(mount "$fleet" /var/lib/opq-update-server)
    # In the same folder, because the rest of the file system is read-only.
    socket=/var/lib/opq-update-server/fleet.sock
    set -- "$@" "$folder" --env "OPQ_FLEET_SOCKET=$socket"
    database=sqlite:////var/lib/opq-update-server/fleet.db
    options="--fleet-db $database --fleet-socket $socket $options"
fi

# shellcheck disable=SC2086 # several words, as in the unit
exec docker run --detach --name opq-box-update-server --restart unless-stopped \
    --read-only --cap-drop ALL --security-opt no-new-privileges \
    --ulimit nofile=20000:20000 \
    --publish "$port:8151" \
    "$@" \
    openpowerquality/opqboxupdateserver $options
