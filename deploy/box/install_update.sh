#!/bin/sh
# Install the release beside this script: a first install and an update are the same thing.
#
#   ./install_update.sh           installs, and reboots the box
#   ./install_update.sh --check   says what that would do, and changes nothing
#   ./install_update.sh --help    prints this
#
# Every folder beside this script, wheels/ excepted, is a component. What is done with each:
#
#   COMPONENT/                   is copied to OPQ_PREFIX/releases/VERSION/COMPONENT
#   COMPONENT/systemd/*.service  are installed and enabled; a /opt/opq/ in them becomes OPQ_PREFIX/
#   COMPONENT/install.sh         (executable, optional) is run for what cannot live in a folder, as
#                                a kernel or a firmware flash, with this environment and in the
#                                copied folder. It must be idempotent: an interrupted install is
#                                run again. It runs once the release is whole, so that it may use
#                                all of it, and before any service is stopped, so that its failing
#                                leaves the box at work as it was: services that it has stopped or
#                                disabled are started and enabled again. In a sandbox it is not run.
#                                With exit status 75 it says that the box is at fault, and is as it
#                                was; those of the live release are then run for the components
#                                before it.
#
# The agent's Python packages come from wheels/, for a box may have no internet.
#
# The rescue, which brings back the last good release when the agent of a later one does not work, is
# put in place where it is missing: box-configuration-daemon/rescue/place.
#
# A root.json beside this script becomes /etc/opq/root.json on a box that has none: by it the agent
# knows who may sign updates. One that is there, be it empty or a dangling link, is never replaced.
#
# /usr/local/bin/opq-box leads to the command line of the release that is current.
#
# Before anything is stopped or changed the new release reads the box's configuration. A release
# that cannot use it is not installed.
#
# The part that stops services and switches to the release runs in a systemd unit of its own,
# opq-box-install-finish.service: the caller may belong to a unit that a component stops. That unit
# is enabled until the installation has ended, so the next boot continues an installation that a
# power cut has interrupted.
#
# OPQ_PREFIX     where releases live                                        /opt/opq
# OPQ_STATE_DIR  the agent's state, for install.sh scripts                  /var/lib/opq/updater
# OPQ_VERSION    the release that the caller expects here: a release older  (any, not older)
#                than the installed one is installed only if this names it
# OPQ_REBOOT     no: the agent runs this, and reboots the box itself        yes
# OPQ_SYSTEMD    no: a sandbox, touch nothing outside OPQ_PREFIX; auto: so  auto
#                where systemd does not run or the user is not root
# OPQ_PYTHON     makes the virtual environment, or does its work            python3
#                where the update has no wheels/
# OPQ_UNIT       the unit that the caller has made for this script; without (none)
#                it the script makes one
#
# A release is whole once it has its VERSION, which is written last. Only the rename of
# OPQ_PREFIX/current makes it live. OPQ_PREFIX/previous leads through current, so that the same
# rename changes both.
#
# Exit status 75 (EX_TEMPFAIL of sysexits.h): the box is at fault, and not the release, and the box is
# as it was. The last line of the output says what to do. The agent then refuses no release, and tries
# again later. Any other status but 0 is a release that does not install here.
#
# OPQ_PREFIX/IMAGE_VERSION has the VERSION of the first release that was installed here, or of the
# one that was live when this script first wrote it. It is written once.

set -eu
umask 022
# Not C: in that one Python cannot read paths that are not ASCII, as of a virtual environment in a home.
export LC_ALL=C.UTF-8

export OPQ_PREFIX="${OPQ_PREFIX:-/opt/opq}"
export OPQ_STATE_DIR="${OPQ_STATE_DIR:-/var/lib/opq/updater}"
export OPQ_REBOOT="${OPQ_REBOOT:-yes}"
export OPQ_SYSTEMD="${OPQ_SYSTEMD:-auto}"
export OPQ_PYTHON="${OPQ_PYTHON:-python3}"
export OPQ_UNIT="${OPQ_UNIT:-}"
AGENT=box-configuration-daemon
COMMAND=/usr/local/bin/opq-box
CONFIG=/etc/opq/opqbox_config.json
ROOT=/etc/opq/root.json
UNITS=/etc/systemd/system
FINISH=opq-box-install-finish.service
# Lost at a reboot, unlike the unit.
CALLER=/run/systemd/system/$FINISH.d/caller.conf
LOG=/var/log/opq/box_update.log
MOST_TRIES=3
# Later scripts find the units of earlier ones by this line: it must stay as it is.
MARK='# Put here by install_update.sh, which replaces it: use "systemctl edit" for changes.'

explained=no
finishing=no
stopped=
ran=
building=no
scratch=

say() {
    echo "$*"
}

fail() {
    echo "install_update.sh: $*" >&2
    explained=yes
    exit 1
}

# Fail for a fault of the box, while it is as it was.
unfit() {
    echo "install_update.sh: $*" >&2
    explained=yes
    exit 75
}

read_arguments() {
    case $#:${1:-} in
        0:) check=no ;;
        1:--check) check=yes ;;
        1:--help)
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit
            ;;
        *)
            explained=yes
            echo "install_update.sh: there are no arguments but --check and --help: $*" >&2
            exit 2
            ;;
    esac
}

# Whatever went wrong, a box that is not about to reboot goes on measuring.
clean_up() {
    if [ "$1" -ne 0 ] && [ -n "$stopped" ]; then
        # shellcheck disable=SC2086 # unit names have no spaces
        systemctl start $stopped || :
    fi
    if [ "$1" -ne 0 ] && [ "$building" = yes ]; then
        # What fills the disk is about to be removed, and so is the proof.
        fault=$(check_folders) || building=unfit
        remove_release "$release" || :
        [ "$building" != unfit ] || unfit "$fault"
    fi
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
    if [ "$1" -ne 0 ] && [ "$finishing" = yes ]; then
        restore_services
        forget_finish
    fi
    if [ "$1" -ne 0 ] && [ "$explained" = no ]; then
        echo "install_update.sh: stopped by the error above: mend it and run this script again." >&2
    fi
}

# Bring the names in a folder to the disk, also where the file system does that only as a whole.
sync_folder() {
    sync "$1" 2>/dev/null || sync -f "$1"
}

# Give a finished file its name, which stands for the old file or the new one, whole, at any time.
put_in_place() {
    sync "$1"
    mv -fT "$1" "$2"
    sync_folder "${2%/*}"
}

# A link is there too, wherever it leads.
is_there() {
    [ -e "$1" ] || [ -L "$1" ]
}

# The agent too reads no more than fifteen digits.
is_version() {
    case $1 in
        '' | 0* | *[!0-9]*) return 1 ;;
    esac
    [ ${#1} -le 15 ]
}

check_inputs() {
    case $OPQ_PREFIX in
        /*) ;;
        *) fail "OPQ_PREFIX must be an absolute path, not $OPQ_PREFIX." ;;
    esac
    case $OPQ_REBOOT in
        yes | no) ;;
        *) fail "OPQ_REBOOT must be yes or no, not $OPQ_REBOOT." ;;
    esac
    case $OPQ_SYSTEMD in
        auto | no) ;;
        *) fail "OPQ_SYSTEMD must be auto or no, not $OPQ_SYSTEMD." ;;
    esac
    for part in VERSION "$AGENT"; do
        [ -e "$part" ] || fail "there is no $part beside this script: unpack the whole archive."
    done
    version=$(cat VERSION)
    is_version "$version" || fail "VERSION must hold seconds since the epoch, not '$version'."
    if [ "${OPQ_VERSION:-$version}" != "$version" ]; then
        fail "this is release $version, but OPQ_VERSION asks for $OPQ_VERSION: unpack that one."
    fi
    release=$OPQ_PREFIX/releases/$version
    SERVICES=$release/.services
    TRIES=$release/.tries
    installed=$(cat "$OPQ_PREFIX/current/VERSION" 2>/dev/null || :)
}

is_older() {
    is_version "$installed" && [ "$version" -lt "$installed" ]
}

refuse_older() {
    if is_older && [ -z "${OPQ_VERSION:-}" ]; then
        fail "release $version is older than the installed one, $installed: to go back to it, run" \
            "this script with OPQ_VERSION=$version."
    fi
}

decide_on_services() {
    if [ "$OPQ_SYSTEMD" = no ]; then
        reason="OPQ_SYSTEMD is no"
    elif [ ! -d /run/systemd/system ]; then
        reason="systemd does not run here"
    elif [ "$(id -u)" -ne 0 ]; then
        reason="this is not root"
    else
        managed=yes
        case $OPQ_PREFIX in
            *[!A-Za-z0-9/._-]*)
                fail "a unit file needs an OPQ_PREFIX of letters, digits, /._-, not $OPQ_PREFIX."
                ;;
        esac
        return
    fi
    managed=no
    say "Leaving services and all else outside $OPQ_PREFIX alone, and not rebooting: $reason."
}

# In /tmp others must not guess the name.
try_to_write() {
    mkdir -p "$1" && probe=$(mktemp "$1/.opq-box-XXXXXX") || return
    head -c 65536 /dev/zero >"$probe" && sync "$probe"
    status=$?
    rm -f "$probe"
    return "$status"
}

try_to_run() {
    probe=$(mktemp "$1/.opq-box-XXXXXX") || return
    printf '#!/bin/sh\n' >"$probe" && chmod 700 "$probe" && "$probe"
    status=$?
    rm -f "$probe"
    return "$status"
}

# Print what the box lacks, and fail. pip writes in /tmp, or where TMPDIR says.
check_folders() {
    for folder in "$OPQ_PREFIX" "${TMPDIR:-/tmp}"; do
        said=$(try_to_write "$folder" 2>&1) || { cannot_write "$folder" "${said##*: }"; return 1; }
    done
    said=$(try_to_run "$OPQ_PREFIX" 2>&1) || { cannot_run "${said##*: }"; return 1; }
}

cannot_write() {
    echo "the box cannot write in $1: $2. Mend that, as by making room there."
}

cannot_run() {
    echo "the box cannot run programs in $OPQ_PREFIX: $1. Mount it without noexec."
}

# As above. An installed wheel, with its bytecode, is some four times as large as its file.
check_room() {
    needed=16384
    for folder in */; do
        size=$(du -sk "$folder" | cut -f 1)
        [ "$folder" != wheels/ ] || size=$((size * 4))
        needed=$((needed + size))
    done
    free=$(df -k --output=avail "$1" | tail -n 1)
    if [ "$free" -lt "$needed" ]; then
        echo "release $version needs $((needed / 1024)) MiB free under $OPQ_PREFIX, and there are" \
            "$((free / 1024)) MiB. Make room."
        return 1
    fi
    files=$(find . -path ./wheels -prune -o -print | wc -l)
    [ ! -d wheels ] || files=$((files + $(du -sk wheels | cut -f 1)))
    # Some file systems do not count files, and then it is no number.
    free=$(df --output=iavail "$1" | tail -n 1 | tr -dc 0-9)
    if [ -n "$free" ] && [ "$free" -lt "$files" ]; then
        echo "release $version needs $files files under $OPQ_PREFIX, and there is room for $free." \
            "Remove some."
        return 1
    fi
}

# What an interruption has left, as a power cut does. The live release and the one before it stay.
remove_unfinished() {
    for folder in "$OPQ_PREFIX"/releases/*; do
        is_version "${folder##*/}" && [ ! -L "$folder" ] && [ ! -e "$folder/VERSION" ] || continue
        if [ -d "$folder" ] && [ ! "$folder" -ef "$OPQ_PREFIX/current" ] &&
            [ ! "$folder" -ef "$OPQ_PREFIX/previous" ]; then
            name=${folder##*/}
            say "Removing $name, which was not finished."
            remove_release "$folder"
        fi
    done
}

take_lock() {
    mkdir -p "$OPQ_PREFIX/releases"
    exec 9>"$OPQ_PREFIX/.install.lock"
    flock --nonblock 9 || fail "another install is under way in $OPQ_PREFIX: wait for it."
}

# Whether this script runs from inside the whole release: only the end of an installation is left.
is_built() {
    [ "$(pwd -P)" = "$(readlink -f "$release")" ] && [ -f "$release/VERSION" ]
}

is_live_and_whole() {
    [ "$(readlink "$OPQ_PREFIX/current")" = "releases/$version" ] && [ -f "$release/VERSION" ]
}

# Without its VERSION what an interruption leaves is no release any more.
remove_release() {
    # A link goes alone: what it leads to may be the live release.
    [ -L "$1" ] || rm -f "$1/VERSION"
    # A script of the release may have left something mounted there.
    rm -rf --one-file-system "$1"
}

build_release() {
    say "Building release $version."
    # A whole one that is not live is not trusted either: files rot on SD cards.
    remove_release "$release"
    (remove_unfinished)
    fault=$(check_room "$OPQ_PREFIX") || unfit "$fault"
    building=yes
    mkdir "$release"
    copy_components
    make_environment
    compile_agent
    try_agent
    if [ "$managed" = yes ]; then check_configuration; fi
    if [ -L "$OPQ_PREFIX/current" ]; then
        live=$(readlink "$OPQ_PREFIX/current")
        ln -s "../${live##*/}" "$release/.previous"
    fi
    echo "$version" >"$release/.VERSION.new"
    sync -f "$release"
    put_in_place "$release/.VERSION.new" "$release/VERSION"
    building=no
}

# Not cp -p: tar, run by root, keeps owners that mean nothing on this box.
copy_components() {
    for folder in */; do
        component=${folder%/}
        if [ "$component" != wheels ]; then
            say "Copying $component."
            cp -R "$component" "$release/$component"
        fi
    done
}

make_environment() {
    if [ ! -d wheels ]; then
        say "No wheels in this update: the agent will use the machine's own Python packages."
        return
    fi
    say "Installing the agent's Python packages."
    # Debian's Python alone cannot put pip into it, and a release has no use for pip later.
    "$OPQ_PYTHON" -I -m venv --without-pip "$release/venv" ||
        unfit "$OPQ_PYTHON made no virtual environment: install Python 3.11 or later."
    python=$(readlink -f "$release/venv/bin/python")
    own=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "The update has packages for Python $(wheel_versions | xargs); the box has $own."
    install_packages ||
        fail "wheels/ lacks what the agent needs on this machine: build the update for it."
    add_agent "$own"
    # An upgrade of the system may keep this Python beside the next one.
    ln -sfn "$python" "$release/venv/bin/python$own"
    for next in $(wheel_versions); do
        if [ "$next" != "$own" ]; then install_packages_for "$next"; fi
    done
}

# The minor versions of Python that are named by wheels.
wheel_versions() {
    for wheel in wheels/*.whl; do echo "$wheel"; done |
        sed -n 's/.*-cp3\([0-9]*\)-cp3\1-.*/3.\1/p' | sort -Vu
}

install_packages() {
    "$release/venv/bin/python" -I "$(echo wheels/pip-*.whl)/pip" --isolated --quiet \
        --disable-pip-version-check install --no-index --find-links wheels --no-cache-dir \
        --no-compile --requirement "$AGENT/requirements.txt" "$@"
}

# For the time after an upgrade of the system: nobody can install them then.
install_packages_for() {
    packages=$release/venv/lib/python$1/site-packages
    if install_packages --target "$packages" --python-version "$1" --implementation cp \
        --only-binary :all:; then
        rm -rf "${packages:?}/bin"
        add_agent "$1"
    else
        say "wheels/ lacks what the agent needs after an upgrade to Python $1."
        rm -rf "$packages"
    fi
}

# Relative, as current is: OPQ_PREFIX may be moved.
add_agent() {
    echo "../../../../$AGENT" >"$release/venv/lib/python$1/site-packages/opq-box.pth"
}

# Not left to the agent: it cannot write in a release. And not to pip, which would compile what
# packages test themselves with, a third of all.
compile_agent() {
    python=$OPQ_PYTHON
    set -- "$release/$AGENT"
    if [ -d "$release/venv" ]; then
        python=$release/venv/bin/python
        set -- "$@" "$release/venv"
    fi
    "$python" -I -X no_debug_ranges -m compileall -q -x '/tests?/' "$@" || : # It is only for speed.
}

# A box whose agent cannot start is lost. This also writes the cache of twistd's plugins.
try_agent() {
    "$release/$AGENT/bin/opq-box-agent" --help >/dev/null ||
        fail "the agent of release $version does not start here, so nothing was changed."
}

# The configuration that the agent's unit names; the owner may have changed the unit.
agent_configuration() {
    named=$(systemctl show --property=ExecStart --value opq-box-agent.service 2>/dev/null |
        sed -n 's/.* --config[ =]\([^ ;]*\).*/\1/p' | tail -n 1)
    echo "${named:-$CONFIG}"
}

# An agent that refuses the box's configuration does not start.
check_configuration() {
    configuration=$(agent_configuration)
    command=$release/$AGENT/bin/${COMMAND##*/}
    if [ ! -x "$command" ] || ! is_there "$configuration"; then return; fi
    "$command" config "$configuration" >/dev/null ||
        unfit "release $version cannot use this box's configuration, so nothing was changed: mend" \
            "$configuration and run this script again."
}

# Let the rest of the installation survive the caller, and a power cut.
finish_in_own_unit() {
    for file in install_update.sh root.json; do
        if [ -f "$file" ] && ! is_built; then
            cp -p "$file" "$release/.$file.new"
            put_in_place "$release/.$file.new" "$release/$file"
        fi
    done
    rm -f "$TRIES"
    write_finish_unit
    say "Going on in $FINISH, which runs to its end whatever becomes of this process."
    # The unit takes the lock itself.
    exec 9>&-
    explained=yes
    trap 'systemctl stop "$FINISH"; exit 130' INT
    systemctl start "$FINISH" &
    starting=$!
    # The unit writes to a file, for a pipe of the caller's may have no reader any more.
    [ ! -f "$LOG" ] || writes_to_log || tail -c "+$((size + 1))" -f -s 0.2 --pid="$starting" "$LOG" || :
    wait "$starting" ||
        fail "the installation of release $version failed: $LOG and journalctl --unit $FINISH say why."
}

# The agent of an earlier release sends this script's output into the log. Following the log would
# then copy the log into itself without end.
writes_to_log() {
    [ "$(stat -L -c %d:%i "/proc/$$/fd/1")" = "$(stat -c %d:%i "$LOG")" ]
}

# As systemd.syntax(7) wants it.
quoted() {
    printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g; s/%/%%/g')"
}

write_finish_unit() {
    output=journal
    size=0
    if mkdir -p "${LOG%/*}" && touch "$LOG"; then
        output=append:$LOG
        size=$(stat -c %s "$LOG")
    fi
    rm -f "$CALLER"
    if [ "$OPQ_REBOOT" = no ]; then
        mkdir -p "${CALLER%/*}"
        printf '[Service]\nEnvironment=OPQ_REBOOT=no\n' >"$CALLER"
    fi
    cat >"$UNITS/.$FINISH.new" <<END
[Unit]
Description=OPQ box: ends the installation of release $version
RequiresMountsFor=$OPQ_PREFIX

[Service]
Type=oneshot
ExecStart=$release/install_update.sh
Environment=OPQ_UNIT=$FINISH OPQ_PREFIX=$OPQ_PREFIX OPQ_VERSION=$version LANG=C.UTF-8
Environment=$(quoted "OPQ_STATE_DIR=$OPQ_STATE_DIR") $(quoted "OPQ_PYTHON=$OPQ_PYTHON")
StandardOutput=$output
StandardError=$output
TimeoutStartSec=2h
PrivateMounts=yes

[Install]
WantedBy=multi-user.target
END
    put_in_place "$UNITS/.$FINISH.new" "$UNITS/$FINISH"
    systemctl daemon-reload
    systemctl --quiet enable "$FINISH"
    sync -f "$UNITS"
}

forget_finish() {
    if [ -f "$UNITS/$FINISH" ]; then
        systemctl --quiet disable "$FINISH" || :
        rm -f "$UNITS/$FINISH"
        sync -f "$UNITS"
    fi
    # After the unit, which runs the script and needs all of them.
    rm -f "$SERVICES" "$TRIES" "$release/root.json" "$release/install_update.sh"
}

# A component that ends the machine must not do so at each boot for ever.
count_try() {
    if [ "$OPQ_UNIT" != "$FINISH" ]; then return; fi
    tried=$(grep -c . "$TRIES" 2>/dev/null || :)
    if [ "${tried:-0}" -ge "$MOST_TRIES" ]; then
        fail "the installation of release $version was interrupted $MOST_TRIES times: it is given up."
    fi
    { cat "$TRIES" 2>/dev/null || :; echo "$version"; } >"$TRIES.new"
    put_in_place "$TRIES.new" "$TRIES"
}

# The services, sockets and timers that are enabled, a line each, and those of them that run.
list_services() {
    enabled=$(systemctl list-unit-files --type=service,socket,timer \
        --state=enabled --plain --no-legend |
        cut -d ' ' -f 1 | grep -v '@\.' || :) # Templates do not run.
    for unit in $enabled; do
        echo "enable $unit"
        if systemctl --quiet is-active "$unit"; then echo "start $unit"; fi
    done
}

# Those before the first try, which may have stopped some.
remember_services() {
    if [ ! -e "$SERVICES" ]; then
        list_services >"$SERVICES.new"
        put_in_place "$SERVICES.new" "$SERVICES"
    fi
}

# A component that fails may have stopped the daemon by which this box is reached, or another one has.
restore_services() {
    if [ ! -e "$SERVICES" ]; then return; fi
    list_services | grep -vxF -f - "$SERVICES" | while read -r verb unit; do
        if [ "$unit" != "$FINISH" ]; then systemctl "$verb" "$unit" || :; fi
    done
}

run_component_scripts() {
    for script in "$release"/*/install.sh; do
        if [ -x "$script" ]; then
            component=${script%/install.sh}
            component=${component##*/}
            say "Running $component/install.sh."
            status=0
            (cd "$release/$component" && ./install.sh 9>&-) || status=$?
            case $status in
                0) ran="$component/$ran" ;;
                75) end_for_box "$component" ;;
                *) fail "$component/install.sh failed, so release $version was not made current." ;;
            esac
        fi
    done
}

# The live release's scripts take back what those of this release have done before the one that failed.
end_for_box() {
    while [ -n "$ran" ]; do
        component=${ran%%/*}
        ran=${ran#*/}
        folder=$OPQ_PREFIX/current/$component
        if [ -x "$folder/install.sh" ]; then
            say "Running $component/install.sh of release $installed again."
            (cd "$folder" && OPQ_VERSION=$installed ./install.sh 9>&-) ||
                fail "$component/install.sh of release $installed failed."
        fi
    done
    unfit "$1/install.sh finds this box at fault, so release $version was not made current: see what it" \
        "wrote, as with opq-box log."
}

# One that is there is of a release that has proved itself, which this one has yet to do.
place_rescue() {
    if [ -x "$release/$AGENT/rescue/place" ]; then
        "$release/$AGENT/rescue/place" missing 9>&-
    fi
}

release_units() {
    for file in "$release"/*/systemd/*.service; do
        if [ -f "$file" ]; then echo "${file##*/}"; fi
    done
}

# Found by their mark and not by release: so those of an install that was interrupted are known too.
installed_units() {
    for file in "$UNITS"/*.service; do
        if [ -f "$file" ] && grep -qxF "$MARK" "$file"; then echo "${file##*/}"; fi
    done
}

units_to_stop() {
    for unit in $( (release_units && installed_units) | sort -u); do
        if [ "$OPQ_REBOOT" = no ] && [ "$unit" = opq-box-agent.service ]; then
            continue # It runs this script, and must live to reboot the box.
        fi
        if [ -f "$UNITS/$unit" ]; then echo "$unit"; fi
    done
}

stop_services() {
    stopped=$(units_to_stop | xargs)
    if [ -n "$stopped" ]; then
        say "Stopping $stopped."
        # shellcheck disable=SC2086 # unit names have no spaces
        systemctl stop $stopped
    fi
}

install_units() {
    set --
    for file in "$release"/*/systemd/*.service; do
        if [ -f "$file" ]; then
            unit=${file##*/}
            { echo "$MARK" && sed "s|/opt/opq/|$OPQ_PREFIX/|g" "$file"; } >"$UNITS/.$unit.new"
            put_in_place "$UNITS/.$unit.new" "$UNITS/$unit"
            set -- "$@" "$unit"
        fi
    done
    if [ $# -gt 0 ]; then
        say "Enabling $*."
        systemctl daemon-reload
        systemctl --quiet enable "$@"
    fi
}

install_sample_configuration() {
    if [ ! -e "$CONFIG" ]; then
        mkdir -p "${CONFIG%/*}"
        cp "$release/$AGENT/${CONFIG##*/}" "$CONFIG.new"
        put_in_place "$CONFIG.new" "$CONFIG"
        say "Put a sample configuration at $CONFIG: set updates_ep in it to your update server."
    fi
}

# One that is there, be it another prefix's, stays.
install_command() {
    target=$OPQ_PREFIX/current/$AGENT/bin/${COMMAND##*/}
    if [ -x "$release/$AGENT/bin/${COMMAND##*/}" ] && ! is_there "$COMMAND"; then
        { mkdir -p "${COMMAND%/*}" && ln -s "$target" "$COMMAND"; } ||
            say "There is no $COMMAND: call it as $target."
    fi
}

# Before the switch, after which an interrupted install counts as done and is not run again; and
# not sooner, for with a root the agent takes no unsigned release any more.
install_trusted_root() {
    if [ -f root.json ] && ! is_there "$ROOT"; then
        mkdir -p "${ROOT%/*}"
        install -m 0644 root.json "$ROOT.new"
        put_in_place "$ROOT.new" "$ROOT"
        say "Put a trusted root at $ROOT: the agent now asks who signed an update."
    fi
}

# Before the switch, while current leads to what was live when this began: so a second run, after an
# interruption anywhere, has the same answer.
record_image_version() {
    if is_there "$OPQ_PREFIX/IMAGE_VERSION"; then return; fi
    image=$(cat "$OPQ_PREFIX/current/VERSION" 2>/dev/null || :)
    is_version "$image" || image=$version
    echo "$image" >"$OPQ_PREFIX/.IMAGE_VERSION.new"
    put_in_place "$OPQ_PREFIX/.IMAGE_VERSION.new" "$OPQ_PREFIX/IMAGE_VERSION"
    say "Recorded release $image as the one that this box's image was made with."
}

switch_current() {
    if [ -L "$release/.previous" ] && [ ! -L "$OPQ_PREFIX/previous" ]; then
        ln -s current/.previous "$OPQ_PREFIX/previous"
    fi
    ln -sfn "releases/$version" "$OPQ_PREFIX/.current.new"
    mv -fT "$OPQ_PREFIX/.current.new" "$OPQ_PREFIX/current"
    sync -f "$OPQ_PREFIX"
    say "Release $version is now current."
}

remove_gone_units() {
    for unit in $(installed_units); do
        set -- "$release"/*/systemd/"$unit"
        if [ ! -f "$1" ]; then
            say "Removing $unit, which this release no longer has."
            systemctl --quiet disable "$unit"
            rm -f "$UNITS/$unit"
            systemctl daemon-reload
        fi
    done
}

prune_releases() {
    previous=$(readlink "$release/.previous" || :)
    for folder in "$OPQ_PREFIX"/releases/*; do
        case ${folder##*/} in
            "$version" | "${previous##*/}") ;;
            *)
                say "Removing release ${folder##*/}."
                remove_release "$folder" || say "It cannot be removed whole."
                ;;
        esac
    done
}

finish() {
    finishing=yes
    count_try
    remember_services
    run_component_scripts
    place_rescue
    stop_services
    install_units
    install_sample_configuration
    install_trusted_root
    install_command
    record_image_version
    switch_current
    # From here on there is no way back: what fails is tried again at the next boot.
    finishing=no
    remove_gone_units
    prune_releases
    forget_finish
    if [ "$OPQ_REBOOT" = yes ]; then
        say "Rebooting."
        systemctl reboot
    fi
}

# The release is built in a scratch folder, for only its own code can tell whether it works here.
say_what_would_happen() {
    say "Installed: ${installed:-nothing}. Release here: $version."
    decide_on_services
    if [ "$managed" = yes ]; then say_what_would_be_changed; fi
    fault=$(check_beforehand) || unfit "$fault"
    say "There is room for the release."
    say "Trying release $version in a scratch folder."
    scratch=$(mktemp -d)
    release=$scratch
    cp -R "$AGENT" "$release/$AGENT"
    make_environment
    try_agent
    if [ "$managed" = yes ]; then check_configuration; fi
    refuse_older
    say "This script would install release $version."
}

say_what_would_be_changed() {
    release=$(pwd)
    units=$(units_to_stop | xargs)
    say "Services that would be stopped: ${units:-none}."
    units=$(release_units | xargs)
    say "Services that would be enabled: ${units:-none}."
    for script in */install.sh; do
        if [ -x "$script" ]; then say "$script would be run."; fi
    done
    if [ "$OPQ_REBOOT" = yes ]; then say "The box would be rebooted at the end."; fi
}

# Where the prefix is not there yet, its parent has the room.
check_beforehand() {
    nearest=$OPQ_PREFIX
    until is_there "$nearest"; do nearest=$(dirname "$nearest"); done
    # Not by writing there: this is not to change anything.
    if [ ! -d "$nearest" ] || [ ! -w "$nearest" ]; then
        cannot_write "$nearest" "it is no folder, is read-only, or belongs to another user"
        return 1
    fi
    if findmnt -n -o OPTIONS -T "$nearest" | grep -qw noexec; then
        cannot_run "it is mounted noexec"
        return 1
    fi
    said=$(try_to_write "${TMPDIR:-/tmp}" 2>&1) ||
        { cannot_write "${TMPDIR:-/tmp}" "${said##*: }"; return 1; }
    check_room "$nearest"
}

trap 'clean_up $?' EXIT
trap 'exit 143' TERM
read_arguments "$@"
cd "$(dirname "$(readlink -f "$0")")"
check_inputs
if [ "$check" = yes ]; then
    say_what_would_happen
    exit
fi
refuse_older
export OPQ_VERSION="$version"
decide_on_services
is_built || fault=$(check_folders) || unfit "$fault"
take_lock
if is_live_and_whole; then
    say "Release $version is already there and current: keeping it."
elif is_built; then
    say "Release $version is built: going on with its installation."
else
    build_release
fi
if [ "$managed" = no ]; then
    record_image_version
    switch_current
    prune_releases
    exit
fi
if [ -z "$OPQ_UNIT" ]; then
    finish_in_own_unit
else
    finish
fi
