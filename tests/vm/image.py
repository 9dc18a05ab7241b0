"""Builds the disk of a Debian with systemd, and extracts its kernel."""

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

#: The files that are copied into the system.
ROOTFS = HERE / "rootfs"

#: Raspberry Pi OS 12 is based on it, with another kernel.
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"

PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64"),
    *("python3", "bzip2", "lbzip2", "util-linux", "iproute2", "logsave"),
)

#: Files and units that a box does not need, and that would slow down each boot.
_NO_FILES = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_NO_UNITS = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "getty.target", "systemd-pstore.service"),
    "systemd-tmpfiles-clean.timer",
)

#: The last step of the build; "$1" is the root of the new system.
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
        """The kernel for QEMU."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initial file system, which mounts the disk."""
        return self.folder / "initrd"


def image(folder: Path) -> Image:
    """Build the image, unless it has been built from the same inputs."""
    made_from = cache.key(files=[Path(__file__), *cache.files_below(ROOTFS)])
    return Image(cache.kept(folder, "image", made_from, _build))


def small_system(folder: Path, kind: str, packages: str) -> Path:
    """Return the tar file of a small Debian with these packages, kept in the folder."""

    def make(draft: Path) -> None:
        options = ("--quiet", "--variant=minbase", f"--include={packages}")
        run(["mmdebstrap", *options, SUITE, str(draft / "root.tar"), MIRROR])

    return cache.kept(folder, kind, cache.key(packages, SUITE, MIRROR), make) / "root.tar"


def _build(folder: Path) -> None:
    tar = folder / "root.tar"
    _bootstrap(tar)
    with tempfile.TemporaryDirectory(prefix="opq-vm-root-", dir=folder) as root:
        # An ordinary user becomes root in a name space, which keeps the files' owners.
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
