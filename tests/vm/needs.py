"""Finds the programs that are needed to run a machine."""

import os
import shutil

#: The needed programs, and their Debian packages.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "tar": "tar",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "dpkg-buildpackage": "dpkg-dev",
    "dh": "debhelper",
}


def missing() -> list[str]:
    """Name the packages whose programs are not installed."""
    return sorted({package for program, package in PROGRAMS.items() if not find(program)})


def find(program: str) -> str | None:
    """Find a program on root's path, because mke2fs is not on other users' path."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return shutil.which(program, path=path)
