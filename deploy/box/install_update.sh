#!/bin/sh
# Install the release beside this script. A first install and an update are the same thing.
#
#   ./install_update.sh           installs, and reboots the box
#   ./install_update.sh --check   says what that would do, and changes nothing
#   ./install_update.sh --help    prints this
#
# Every folder beside this script except wheels/ is a component:
#
#   COMPONENT/                   is copied to OPQ_PREFIX/releases/VERSION/COMPONENT
#   COMPONENT/systemd/*.service  are installed and enabled, with OPQ_PREFIX/ in place of /opt/opq/
#   COMPONENT/install.sh         (executable, optional) installs what is outside the folder, such as
#                                a kernel or firmware. It runs in the copied folder, with this
#                                environment, when the release is complete and before any service is
#                                stopped. It must be idempotent, because an interrupted install is
#                                repeated. If it fails, the box stays as it was: services that it
#                                stopped or disabled are started and enabled again. With exit status
#                                75 it blames the box, and has changed nothing; then the scripts of
#                                the live release are run again for the components before it. In a
#                                sandbox it does not run. The scripts run in the order of the
#                                components' names: digits, then capital and then small letters.
#   COMPONENT/requirements.txt   (optional) names Python packages. They are installed in an
#                                environment of the component alone, COMPONENT/venv, whose python its
#                                units start. The agent's is OPQ_PREFIX/releases/VERSION/venv.
#
# The agent's Python packages come from wheels/, and a component's from wheels/COMPONENT/, because a
# box may have no internet.
#
# The rescue, which restores the last good release if a later agent does not work, is installed where
# it is missing (box-configuration-daemon/rescue/place).
#
# A root.json beside this script is copied to /etc/opq/root.json on a box that has none. It tells the
# agent whose signatures are valid. An existing file, even an empty one or a dangling link, is never
# replaced.
#
# On a box that has no last good archive, the archive from which this folder was unpacked becomes it,
# if it is beside the folder and has the same content.
#
# /usr/local/bin/opq-box leads to the command line of the current release.
#
# Before anything is stopped or changed, the new release reads the box's configuration. A release
# that cannot use it is not installed.
#
# The part that stops services and switches to the release runs in a systemd unit of its own,
# opq-box-install-finish.service, because the caller may belong to a unit that a component stops. That
# unit is enabled until the installation has ended, so that the next boot continues an installation
# after a power cut.
#
# OPQ_PREFIX     where releases live                                        /opt/opq
# OPQ_STATE_DIR  the agent's state                                          /var/lib/opq/updater
# OPQ_VERSION    the release that the caller expects here: a release older  (any, not older)
#                than the installed one is installed only if this names it
# OPQ_REBOOT     no: the agent runs this, and reboots the box itself        yes
# OPQ_SYSTEMD    no: a sandbox, touch nothing outside OPQ_PREFIX; auto: so  auto
#                where systemd does not run or the user is not root
# OPQ_PYTHON     makes the virtual environments, which have the machine's   python3
#                packages, or does the agent's work, if there is no wheels/
# OPQ_UNIT       the unit that the caller has made for this script; without (none)
#                it the script makes one
#
# A release is complete once it has its VERSION, which is written last. Only the rename of
# OPQ_PREFIX/current makes it live. OPQ_PREFIX/previous leads through current, so that the same
# rename changes both.
#
# Exit status 75 (EX_TEMPFAIL of sysexits.h): the box is at fault, not the release, and nothing has
# changed. The last line of the output says what to do. The agent then does not block the release, and
# tries again later. Any other status but 0 means that the release cannot be installed here.
#
# OPQ_PREFIX/IMAGE_VERSION contains the VERSION of the first release that was installed here, or of
# the live one when this script first wrote it. It is written once.

set -eu
umask 022
# Not C: in that locale, Python cannot read paths that are not ASCII.
export LC_ALL=C.UTF-8

export OPQ_PREFIX="${OPQ_PREFIX:-/opt/opq}"
export OPQ_STATE_DIR="${OPQ_STATE_DIR:-/var/lib/opq/updater}"
export OPQ_REBOOT="${OPQ_REBOOT:-yes}"
export OPQ_SYSTEMD="${OPQ_SYSTEMD:-auto}"
export OPQ_PYTHON="${OPQ_PYTHON:-python3}"
export OPQ_UNIT="${OPQ_UNIT:-}"
ARCHIVES=$OPQ_STATE_DIR/archives
LAST_GOOD=$ARCHIVES/last-good
AGENT=box-configuration-daemon
COMMAND=/usr/local/bin/opq-box
CONFIG=/etc/opq/opqbox_config.json
ROOT=/etc/opq/root.json
UNITS=/etc/systemd/system
FINISH=opq-box-install-finish.service
# Lost at a reboot, unlike the unit.
CALLER=/run/systemd/system/$FINISH.d/caller.conf
LOG=/var/log/opq/box_update.log
MAX_TRIES=3
# Later versions of this script find the units of earlier ones by this line: it must never change.
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

# Fail for a fault of the box, before anything was changed.
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

# After any failure, start the services again, so that the box measures.
clean_up() {
    if [ "$1" -ne 0 ] && [ -n "$stopped" ]; then
        # shellcheck disable=SC2086 # unit names have no spaces
        systemctl start $stopped || :
    fi
    if [ "$1" -ne 0 ] && [ "$building" = yes ]; then
        # Check first: the unfinished release may be what fills the disk.
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
        echo "install_update.sh: stopped by the error above: fix it and run this script again." >&2
    fi
}

# Sync a folder, or its whole file system if that cannot sync a folder.
sync_folder() {
    sync "$1" 2>/dev/null || sync -f "$1"
}

# Rename a finished file: at any time, its new name stands for the complete old or new file.
put_in_place() {
    sync "$1"
    mv -fT "$1" "$2"
    sync_folder "${2%/*}"
}

# A dangling link exists too.
is_there() {
    [ -e "$1" ] || [ -L "$1" ]
}

# The agent accepts at most fifteen digits too.
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
    ARCHIVE=opq-box-update-$version.tar.bz2
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
    say "Changing nothing outside $OPQ_PREFIX, and not rebooting: $reason."
}

# mktemp: in /tmp, other users must not be able to guess the name.
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

# Fail, and print what the box lacks. pip writes in /tmp, or in TMPDIR.
check_folders() {
    for folder in "$OPQ_PREFIX" "${TMPDIR:-/tmp}"; do
        said=$(try_to_write "$folder" 2>&1) || { cannot_write "$folder" "${said##*: }"; return 1; }
    done
    said=$(try_to_run "$OPQ_PREFIX" 2>&1) || { cannot_run "${said##*: }"; return 1; }
}

cannot_write() {
    echo "the box cannot write in $1: $2. Fix that, for example by making room there."
}

cannot_run() {
    echo "the box cannot run programs in $OPQ_PREFIX: $1. Mount it without noexec."
}

# As above. An installed wheel with its bytecode is about four times as large as the wheel.
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
    # On file systems that do not count files, this is not a number.
    free=$(df --output=iavail "$1" | tail -n 1 | tr -dc 0-9)
    if [ -n "$free" ] && [ "$free" -lt "$files" ]; then
        echo "release $version needs $files files under $OPQ_PREFIX, and there is room for $free." \
            "Remove some."
        return 1
    fi
}

# Remove the remains of interrupted installations, but never the live or the previous release.
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

# Whether this script runs from inside the complete release, to finish its installation.
is_built() {
    [ "$(pwd -P)" = "$(readlink -f "$release")" ] && [ -f "$release/VERSION" ]
}

is_live_and_whole() {
    [ "$(readlink "$OPQ_PREFIX/current")" = "releases/$version" ] && [ -f "$release/VERSION" ]
}

# Remove the VERSION first: without it, the remains of an interrupted removal are not a release.
remove_release() {
    # Of a link, remove only the link: it may lead to the live release.
    [ -L "$1" ] || rm -f "$1/VERSION"
    # A script of the release may have left something mounted there.
    rm -rf --one-file-system "$1"
}

build_release() {
    say "Building release $version."
    # A complete release that is not live is built again too: files rot on SD cards.
    remove_release "$release"
    (remove_unfinished)
    fault=$(check_room "$OPQ_PREFIX") || unfit "$fault"
    building=yes
    mkdir "$release"
    copy_components
    make_environments
    compile_packages
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

# Not cp -p: the owners that tar restores as root mean nothing on this box.
copy_components() {
    for folder in */; do
        component=${folder%/}
        if [ "$component" != wheels ]; then
            say "Copying $component."
            cp -R "$component" "$release/$component"
        fi
    done
}

make_environments() {
    environment=$release/venv
    wheels=wheels
    owner="the agent"
    component=$AGENT
    if [ -d wheels ]; then
        make_agent_environment
    else
        say "No wheels in this update: the agent will use the machine's own Python packages."
    fi
    for file in */requirements.txt; do
        component=${file%/*}
        if [ ! -f "$file" ] || [ "$component" = "$AGENT" ]; then continue; fi
        environment=$release/$component/venv
        wheels=wheels/$component
        owner=$component
        if [ -d wheels ]; then
            make_component_environment
        else
            make_environment --system-site-packages
        fi
    done
}

make_agent_environment() {
    say "Installing the agent's Python packages."
    make_environment
    python=$(readlink -f "$release/venv/bin/python")
    own=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "The update has packages for Python $(wheel_versions | xargs); the box has $own."
    install_own_packages
    add_agent "$own"
    # After an upgrade of the system, this Python may remain beside the next one.
    ln -sfn "$python" "$release/venv/bin/python$own"
    for next in $(wheel_versions); do
        if [ "$next" != "$own" ] && install_packages_for "$next"; then add_agent "$next"; fi
    done
}

make_component_environment() {
    say "Installing the Python packages of $component."
    make_environment
    install_own_packages
    for next in $(wheel_versions); do
        if [ "$next" != "$own" ]; then install_packages_for "$next" || :; fi
    done
}

# Debian's Python cannot install pip there without other packages, and a release needs no pip.
make_environment() {
    "$OPQ_PYTHON" -I -m venv --without-pip "$environment" "$@" ||
        unfit "$OPQ_PYTHON made no virtual environment: install Python 3.11 or later."
}

# The minor versions of Python for which there are wheels.
wheel_versions() {
    for wheel in wheels/*.whl; do echo "$wheel"; done |
        sed -n 's/.*-cp3\([0-9]*\)-cp3\1-.*/3.\1/p' | sort -Vu
}

install_own_packages() {
    install_packages ||
        fail "wheels/ lacks what $owner needs on this machine: build the update for it."
}

install_packages() {
    "$environment/bin/python" -I "$(echo wheels/pip-*.whl)/pip" --isolated --quiet \
        --disable-pip-version-check install --no-index --find-links "$wheels" --no-cache-dir \
        --no-compile --requirement "$component/requirements.txt" "$@"
}

# Packages for a Python that the box may get later by an upgrade of the system.
install_packages_for() {
    packages=$environment/lib/python$1/site-packages
    if install_packages --target "$packages" --python-version "$1" --implementation cp \
        --only-binary :all:; then
        rm -rf "${packages:?}/bin"
    else
        say "wheels/ lacks what $owner needs after an upgrade to Python $1."
        rm -rf "$packages"
        return 1
    fi
}

# The path is relative, as in current, so that OPQ_PREFIX may be moved.
add_agent() {
    echo "../../../../$AGENT" >"$release/venv/lib/python$1/site-packages/opq-box.pth"
}

# The agent cannot compile itself, because it cannot write in a release, nor can a careful daemon. pip
# would compile the tests of the packages too, which are a third of their code.
compile_packages() {
    python=$OPQ_PYTHON
    set -- "$release/$AGENT"
    if [ -d "$release/venv" ]; then
        python=$release/venv/bin/python
        set -- "$@" "$release/venv"
    fi
    for environment in "$release"/*/venv; do
        if [ -d "$environment" ]; then set -- "$@" "${environment%/venv}"; fi
    done
    "$python" -I -X no_debug_ranges -m compileall -q -x '/tests?/' "$@" || : # Only for speed.
}

# A box whose agent cannot start is lost. This also writes twistd's cache of plugins.
try_agent() {
    "$release/$AGENT/bin/opq-box-agent" --help >/dev/null ||
        fail "the agent of release $version does not start here, so nothing was changed."
}

# The configuration that the agent's unit names, because the owner may have changed the unit.
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
        unfit "release $version cannot use this box's configuration, so nothing was changed: fix" \
            "$configuration and run this script again."
}

# Without a last good archive, a box cannot go back from its first update.
store_archive() {
    command=$release/$AGENT/bin/${COMMAND##*/}
    if is_there "$LAST_GOOD" || is_built || [ ! -x "$command" ]; then return; fi
    said="There is no ../$ARCHIVE."
    if [ -f "../$ARCHIVE" ]; then
        say "Storing the archive of the release, so that the box can go back to it."
        said=$("$command" adopt --unpacked . --state-dir "$OPQ_STATE_DIR" "../$ARCHIVE" 2>&1) && return
    fi
    say "This box cannot go back from its next update: ${said#opq-box: } Once release $version runs," \
        "give the box its archive: opq-box adopt $ARCHIVE"
}

# Not before the release is current: until then, the box must not go back to it.
register_archive() {
    if is_there "$LAST_GOOD" || [ ! -f "$ARCHIVES/$ARCHIVE.sha256" ] || [ ! -f "$ARCHIVES/$ARCHIVE" ]
    then
        return
    fi
    ln -sfn "$ARCHIVE" "$ARCHIVES/.last-good.new"
    mv -fT "$ARCHIVES/.last-good.new" "$LAST_GOOD"
    sync_folder "$ARCHIVES"
    say "The box goes back to release $version when an update fails."
}

# Run the rest of the installation so that it survives the caller's end, and a power cut.
finish_in_own_unit() {
    for file in install_update.sh root.json; do
        if [ -f "$file" ] && ! is_built; then
            cp -p "$file" "$release/.$file.new"
            put_in_place "$release/.$file.new" "$release/$file"
        fi
    done
    rm -f "$TRIES"
    write_finish_unit
    say "Continuing in $FINISH, which runs to its end even if this process is stopped."
    # The unit takes the lock itself.
    exec 9>&-
    explained=yes
    trap 'systemctl stop "$FINISH"; exit 130' INT
    systemctl start "$FINISH" &
    starting=$!
    # The unit writes to a file, because the reader of the caller's pipe may end.
    [ ! -f "$LOG" ] || writes_to_log || tail -c "+$((size + 1))" -f -s 0.2 --pid="$starting" "$LOG" || :
    wait "$starting" ||
        fail "the installation of release $version failed: $LOG and journalctl --unit $FINISH say why."
}

# The agent of an earlier release writes this script's output to the log. To follow the log would then
# copy the log into itself endlessly.
writes_to_log() {
    [ "$(stat -L -c %d:%i "/proc/$$/fd/1")" = "$(stat -c %d:%i "$LOG")" ]
}

# Quote as in systemd.syntax(7).
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
    # Remove these after the unit, which needs them.
    rm -f "$SERVICES" "$TRIES" "$release/root.json" "$release/install_update.sh"
}

# A component that crashes the machine must not do so at every boot for ever.
count_try() {
    if [ "$OPQ_UNIT" != "$FINISH" ]; then return; fi
    tried=$(grep -c . "$TRIES" 2>/dev/null || :)
    if [ "${tried:-0}" -ge "$MAX_TRIES" ]; then
        fail "the installation of release $version was interrupted $MAX_TRIES times: it is given up."
    fi
    { cat "$TRIES" 2>/dev/null || :; echo "$version"; } >"$TRIES.new"
    put_in_place "$TRIES.new" "$TRIES"
}

# A line for each enabled service, socket and timer, and another for each of these that runs.
list_services() {
    enabled=$(systemctl list-unit-files --type=service,socket,timer \
        --state=enabled --plain --no-legend |
        cut -d ' ' -f 1 | grep -v '@\.' || :) # Templates do not run.
    for unit in $enabled; do
        echo "enable $unit"
        if systemctl --quiet is-active "$unit"; then echo "start $unit"; fi
    done
}

# Record the services before the first try, because a try may stop some.
remember_services() {
    if [ ! -e "$SERVICES" ]; then
        list_services >"$SERVICES.new"
        put_in_place "$SERVICES.new" "$SERVICES"
    fi
}

# The failed component, or an earlier one, may have stopped the daemon that makes this box reachable.
restore_services() {
    if [ ! -e "$SERVICES" ]; then return; fi
    list_services | grep -vxF -f - "$SERVICES" | while read -r verb unit; do
        if [ "$unit" != "$FINISH" ]; then systemctl "$verb" "$unit" || :; fi
    done
}

# In the order of the names: */install.sh would put kernel-2/install.sh before kernel/install.sh.
run_component_scripts() {
    for folder in "$release"/*; do
        if [ -x "$folder/install.sh" ]; then
            component=${folder##*/}
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

# The live release's scripts undo the changes of this release's scripts before the failed one.
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

# An existing rescue belongs to a confirmed release, and this one is not confirmed yet.
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

# The mark also finds the units of an interrupted install.
installed_units() {
    for file in "$UNITS"/*.service; do
        if [ -f "$file" ] && grep -qxF "$MARK" "$file"; then echo "${file##*/}"; fi
    done
}

units_to_stop() {
    for unit in $( (release_units && installed_units) | sort -u); do
        if [ "$OPQ_REBOOT" = no ] && [ "$unit" = opq-box-agent.service ]; then
            continue # It runs this script, and reboots the box later.
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
        say "Wrote a sample configuration to $CONFIG. After the reboot, name your update server:" \
            "opq-box setup --server URL"
    fi
}

# An existing command stays, even if it belongs to another prefix.
install_command() {
    target=$OPQ_PREFIX/current/$AGENT/bin/${COMMAND##*/}
    if [ -x "$release/$AGENT/bin/${COMMAND##*/}" ] && ! is_there "$COMMAND"; then
        { mkdir -p "${COMMAND%/*}" && ln -s "$target" "$COMMAND"; } ||
            say "There is no $COMMAND: call it as $target."
    fi
}

# This comes before the switch, because after that an interrupted install counts as done. It does not
# come earlier, because with a root the agent accepts no unsigned release any more.
install_trusted_root() {
    if [ -f root.json ] && ! is_there "$ROOT"; then
        mkdir -p "${ROOT%/*}"
        install -m 0644 root.json "$ROOT.new"
        put_in_place "$ROOT.new" "$ROOT"
        say "Wrote the trusted root to $ROOT: the agent now verifies the signatures of updates."
    fi
}

# This comes before the switch, while current still leads to the old release, so that a run after an
# interruption records the same version.
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
                remove_release "$folder" || say "It cannot be removed completely."
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
    # From here on, the release stays current: failed steps are repeated at the next boot.
    finishing=no
    register_archive || say "The archive of release $version cannot be registered."
    remove_gone_units
    prune_releases
    forget_finish
    if [ "$OPQ_REBOOT" = yes ]; then
        say "Rebooting."
        systemctl reboot
    fi
}

# Build the release in a scratch folder: only its own code can show whether it works here.
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
    make_environments
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
    for folder in *; do
        if [ -x "$folder/install.sh" ]; then say "$folder/install.sh would be run."; fi
    done
    if [ "$OPQ_REBOOT" = yes ]; then say "The box would be rebooted at the end."; fi
}

# If the prefix does not exist yet, check the room of its nearest parent.
check_beforehand() {
    nearest=$OPQ_PREFIX
    until is_there "$nearest"; do nearest=$(dirname "$nearest"); done
    # Do not write there: --check changes nothing.
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
    say "Release $version is built: continuing with its installation."
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
    store_archive
    finish_in_own_unit
else
    finish
fi
