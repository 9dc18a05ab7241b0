"""Builds the disk of a Debian with systemd, and takes its kernel out to boot it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from attrs import frozen

from tests.vm import cache
from tests.vm.needs import find
from tests.vm.releases import run

HERE = Path(__file__).parent

#: What is put into the system as it is.
ROOTFS = HERE / "rootfs"

#: Raspberry Pi OS 12 is this, but for the kernel.
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"

PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64"),
    *("python3", "bzip2", "lbzip2", "util-linux", "iproute2", "logsave"),
)

#: What a box does not need, and what would take time at each boot.
_NO_FILES = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_NO_UNITS = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "getty.target", "systemd-pstore.service"),
    "systemd-tmpfiles-clean.timer",
)

#: Run in the new system, whose root is "$1".
_CUSTOMIZE = f"""set -eu
echo opq-box >"$1/etc/hostname"
echo '/dev/vda / ext4 defaults 0 1' >"$1/etc/fstab"
mkdir -p "$1/var/log/journal"
chroot "$1" systemctl --quiet enable systemd-networkd opq-vm-shell
chroot "$1" systemctl --quiet mask {" ".join(_NO_UNITS)}
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/vm"
printf '%s\\n' virtio_pci virtio_blk >>"$1/etc/initramfs-tools/modules"
chroot "$1" update-initramfs -u
"""

#: Bytes; the file has holes.
SIZE = 3 << 30


@frozen
class Image:
    """The folder of one built system."""

    folder: Path

    @property
    def disk(self) -> Path:
        """An ext4 without a partition table, with the defaults of mke2fs: a journal, barriers."""
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        """What QEMU boots."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """What finds the disk."""
        return self.folder / "initrd"


def image(folder: Path) -> Image:
    """Build the image, if that was not done before from the same."""
    made_from = cache.key(files=[Path(__file__), *cache.files_below(ROOTFS)])
    return Image(cache.kept(folder, "image", made_from, _build))


def small_system(folder: Path, kind: str, packages: str) -> Path:
    """Give the tar file of a small Debian with these packages; it is kept in the folder."""

    def make(draft: Path) -> None:
        options = ("--quiet", "--variant=minbase", f"--include={packages}")
        run(["mmdebstrap", *options, SUITE, str(draft / "root.tar"), MIRROR])

    return cache.kept(folder, kind, cache.key(packages, SUITE, MIRROR), make) / "root.tar"


def _build(folder: Path) -> None:
    tar = folder / "root.tar"
    _bootstrap(tar)
    with tempfile.TemporaryDirectory(prefix="opq-vm-root-", dir=folder) as root:
        # Where this is not root, a name space makes it so: the files keep their owners.
        as_root = [] if os.geteuid() == 0 else ["unshare", "--map-auto", "--map-root-user"]
        script = 'tar xf "$1" -C "$2" --exclude="./dev/*" && "$4" -q -t ext4 -d "$2" "$3" "$5"'
        disk, mke2fs = folder / "disk.img", find("mke2fs") or "mke2fs"
        subprocess.run(
            [*as_root, "sh", "-c", script, "sh", tar, root, disk, mke2fs, f"{SIZE >> 20}M"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for name in ("vmlinuz", "initrd"):
            [newest] = Path(root, "boot").glob(f"{name}*-amd64")
            shutil.copy(newest, folder / name)
        if as_root:
            subprocess.run([*as_root, "sh", "-c", 'rm -rf "$1"/*', "sh", root], check=True)
    tar.unlink()


def _bootstrap(tar: Path) -> None:
    """Run mmdebstrap, which needs no root where user name spaces are allowed."""
    run(
        [
            *("mmdebstrap", "--variant=minbase", "--format=tar"),
            f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _NO_FILES),
            f"--customize-hook=sync-in {ROOTFS} /",
            f"--customize-hook={_CUSTOMIZE}",
            *(SUITE, os.fspath(tar), MIRROR),
        ]
    )
