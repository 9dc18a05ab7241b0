#!/bin/sh
# Check whether the box is fit for an installation. This runs where install_update.sh does, because
# the agent's own unit sees the file systems differently. If the box is not fit, the exit status is 75
# and the output is one sentence about the reason.
#
# The remains of an interrupted installation under the prefix are removed: a folder without a VERSION
# is not a release. The live release, the previous and the last good one are never touched.
#
# preflight.sh before|after|running [FOLDER...]
#   before   remove the remains, then check
#   after    check, then remove the remains, which may be what fills the disk
#   running  only check that a program can be run in the state directory
#   FOLDER   must be writable
#
# The working directory may contain install_update.sh and verify_update.sh.

export LC_ALL=C
unfit() { printf '%s\n' "$1"; exit 75; }

# mktemp: in /tmp, other users must not be able to guess the name.
try_to_write() {
    mkdir -p "$1" && probe=$(mktemp "$1/.opq-box-XXXXXX") || return
    head -c 65536 /dev/zero >"$probe" && sync "$probe"
    status=$?
    rm -f "$probe"
    return "$status"
}

can_write() {
    said=$(try_to_write "$1" 2>&1) && return
    reason=${said##*: }
    unfit "The box cannot write in $1: $reason. Fix that, for example by making room there."
}

try_to_run() {
    probe=$(mktemp "$1/.opq-box-XXXXXX") || return
    printf '#!/bin/sh\nexit 0\n' >"$probe" && chmod 700 "$probe" && "$probe"
    status=$?
    rm -f "$probe"
    return "$status"
}

can_run() {
    said=$(try_to_run "$1" 2>&1) && return
    reason=${said##*: }
    unfit "The box cannot run programs in $1: $reason. Mount it without noexec."
}

# Run an empty script with the same first line. A carriage return in that line is the release's fault.
has_interpreter() {
    IFS= read -r first <"$1" || :
    case $first in *"$(printf '\r')"*) return ;; '#!'*) ;; *) return ;; esac
    probe=$(mktemp "$OPQ_STATE_DIR/.opq-box-XXXXXX") && printf '%s\n' "$first" >"$probe" &&
        chmod 700 "$probe" || return
    "$probe" </dev/null >/dev/null 2>&1
    status=$?
    rm -f "$probe"
    needed=${first#??}
    needed=${needed# }
    case $status in
        126 | 127) unfit "This box cannot run $needed, which $1 needs. Install it." ;;
    esac
}

remove_unfinished() {
    good=$(readlink "$OPQ_STATE_DIR/archives/last-good")
    for folder in "$OPQ_PREFIX"/releases/*; do
        case ${folder##*/} in *[!0-9]*) continue ;; esac
        if [ -d "$folder" ] && [ ! -L "$folder" ] && [ ! -e "$folder/VERSION" ] &&
            [ ! "$folder" -ef "$OPQ_PREFIX/current" ] &&
            [ ! "$folder" -ef "$OPQ_PREFIX/previous" ] &&
            [ "$good" != "opq-box-update-${folder##*/}.tar.bz2" ]; then
            rm -rf --one-file-system "$folder"
        fi
    done
}

# The lock prevents this while somebody runs install_update.sh by hand.
tidy() {
    rm -f "$OPQ_PREFIX"/.opq-box-?????? "$OPQ_STATE_DIR"/.opq-box-??????
    [ ! -e "$OPQ_PREFIX/.install.lock" ] ||
        (flock --nonblock 9 && remove_unfinished) 2>/dev/null 9>>"$OPQ_PREFIX/.install.lock"
}

case $1 in
    before) tidy ;;
    after) trap tidy EXIT ;;
esac
shift
[ $# -gt 0 ] || { can_run "$OPQ_STATE_DIR"; exit; }
for folder; do can_write "$folder"; done
can_run "$OPQ_STATE_DIR"
can_run "$OPQ_PREFIX"
for script in install_update.sh verify_update.sh; do
    [ ! -f "$script" ] || has_interpreter "$script"
done
