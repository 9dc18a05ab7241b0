"""Makes a golden image of a box, and boots two copies of it."""

import json

from attrs import evolve

from tests.vm import invariants
from tests.vm.box import BOOT, CONFIG, PREFIX, STATE, VmBox
from tests.vm.machine import HOST
from tests.vm.report import Broken

_UPDATE = 1500.0

_SCRIPT = f"{PREFIX}/current/box-configuration-daemon/golden-image"

#: The machine has no SSH server, so this stands in for the program that makes its keys.
_KEYGEN = """#!/bin/sh
[ "$*" = -A ] || exit 1
cat /proc/sys/kernel/random/uuid >/etc/ssh/ssh_host_ed25519_key
"""
_KEY = "/etc/ssh/ssh_host_ed25519_key"

_SECRETS = f"""set -eu
mkdir -p /etc/ssh /root
cat >/usr/local/bin/ssh-keygen
chmod 755 /usr/local/bin/ssh-keygen
for file in {_KEY} /root/.bash_history /etc/opq/web_password; do echo secret >$file; done
/usr/local/bin/opq-box setup --box-id 7 --name Kitchen
sync
"""


class Copy(VmBox):
    """A box that boots from a copy of the image."""

    def configure(self, number: int = 1, **changes: object) -> None:
        """Name the server: the first boot has done the rest."""
        self.answers(BOOT)
        command = f"/usr/local/bin/opq-box setup --server http://{HOST}:{self.server_port}"
        self.shell.run(f"{command} && sync")
        self.shell.run("systemctl restart opq-box-agent", seconds=BOOT)
        self.answers(BOOT)

    @property
    def identity(self) -> tuple[int, str, str]:
        """The number of the box, the machine's id and the host key."""
        config = json.loads(self.shell.run(f"cat {CONFIG}"))
        if config["updater"].get("name"):
            raise Broken(f"The copy has the name of the original: {config['updater']['name']}.")
        machine, key = (self.shell.run(f"cat {path}").strip() for path in ("/etc/machine-id", _KEY))
        return config["box_id"], machine, key


def golden_image(box: VmBox) -> str:
    """Two copies of a golden image get different numbers, and update."""
    box.shell.run(_SECRETS, input=_KEYGEN)
    original = box.shell.run("cat /etc/machine-id").strip()
    box.shell.run(f"systemd-run --collect {_SCRIPT}")
    box.machine.wait_off(BOOT)
    identities = [(7, original, "secret")]
    for number in (1, 2):
        with Copy(
            evolve(box.prepared, disk=box.machine.disk), box.folder / f"copy-{number}"
        ) as copy:
            identities.append(copy.identity)
            _must_be_clean(copy)
            if number == 2:
                _must_update(copy)
                if copy.identity != identities[-1]:
                    raise Broken("The copy is another box after the update.")
    for each in zip(*identities, strict=True):
        if len(set(each)) != len(each) or not all(each):
            raise Broken(f"The boxes are not different: {each}")
    return f"box_id {identities[1][0]} and {identities[2][0]}"


def _must_be_clean(copy: Copy) -> None:
    """Check that the copy has nothing of the original, and that its first boot has ended."""
    left = "/root/.bash_history /etc/systemd/system/opq-box-first-boot.service"
    copy.shell.run(f"for file in {left}; do [ ! -e $file ] || exit 1; done")
    copy.shell.run("! systemctl is-enabled opq-box-first-boot.service")
    copy.shell.run("[ $(ls /var/log/journal) = $(cat /etc/machine-id) ]")
    good = copy.shell.run(f"readlink {STATE}/archives/last-good").strip()
    if good != copy.prepared.old.name:
        raise Broken(f"The copy would return to {good!r}.")


def _must_update(copy: Copy) -> None:
    copy.publish(copy.prepared.new, copy.prepared.new_version)
    before = copy.status()
    copy.click()
    status = copy.rests(before, _UPDATE)
    if invariants.whole(copy, copy.prepared.archives) != copy.prepared.new_version:
        raise Broken(f"The copy was not updated: {status['message']}")
