"""Archives that no common tool writes, each with the reason of its refusal."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from dataclasses import dataclass

from tests.helpers.archives import (
    BLOCK,
    END,
    GNU,
    SCRIPT,
    file,
    folder,
    header,
    layout,
    long_name,
    padded,
    pax,
    raw_pax,
    stream,
)

VERSION = 1547860803
NAME = f"opq-box-update-{VERSION}"
MIB = 1 << 20

#: A limit under which a bomb goes off before it has taken long.
BOMB_LIMIT = 64 * MIB

_EMPTY = bz2.compress(b"")
_GOOD = bz2.compress(stream(*layout(VERSION)), 1)
_EVIL = b"#!/bin/sh\necho evil\n"


@dataclass(frozen=True)
class Hostile:
    """An archive, and a part of the sentence with which it must be refused."""

    reason: str
    build: Callable[[], bytes]


def _file(reason: str, content: bytes) -> Hostile:
    """Return a file that is damaged, or no archive."""
    return Hostile(reason, lambda: content)


def _tar(reason: str, content: bytes) -> Hostile:
    """Return an archive of this tar stream."""
    return Hostile(reason, lambda: bz2.compress(content, 1))


def _only(reason: str, *members: bytes) -> Hostile:
    """Return an archive of these members."""
    return _tar(reason, stream(*members))


def _beside(reason: str, *members: bytes) -> Hostile:
    """Return an archive of these members after those of a good update."""
    return _only(reason, *layout(VERSION), *members)


def _flipped(content: bytes, offset: int) -> bytes:
    flipped = bytearray(content)
    flipped[offset] ^= 1
    return bytes(flipped)


#: Each kind of member that is neither a file nor a folder, and its description.
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"D": "a GNU directory dump",
    b"K": "a GNU long link name",
    b"M": "a part of a multi-volume archive",
    b"N": "of the unknown kind b'N'",  # old GNU long names
    b"S": "a sparse file",
    b"V": "a volume label",
    b"X": "of the unknown kind b'X'",  # a Solaris extended header
    b"A": "of the unknown kind b'A'",  # a Solaris access control list
    b"I": "of the unknown kind b'I'",  # only the data of an inode
    b"8": "of the unknown kind b'8'",
    b"\xff": "of the unknown kind b'\\xff'",
}


def _kinds() -> dict[str, Hostile]:
    """Return an archive for each kind of member that is neither a file nor a folder."""
    kinds = {
        f"kind {kind!r}": _beside(
            f"'odd' is {description}", header("odd", kind, link=b"VERSION", magic=GNU)
        )
        for kind, description in KINDS.items()
    }
    link, hard = header("odd", b"2", link=b"/etc"), header("odd", b"1", link=b"/etc/passwd")
    return kinds | {
        "symbolic link to the root": _beside("'odd' is a symbolic link", link),
        "hard link to the root": _beside("'odd' is a hard link", hard),
        "symbolic link, then through it": _beside(
            "'odd' is a symbolic link", link, file("odd/cron.d/x", _EVIL)
        ),
        "hard link, then over it": _beside("'odd' is a hard link", hard, file("odd", _EVIL)),
        "symbolic link that a file replaces": _beside(
            "'odd' is a symbolic link", link, file("odd", _EVIL)
        ),
        "symbolic link as top-level folder": _only(
            f"'{NAME}' is a symbolic link",
            header(NAME, b"2", link=b"/etc"),
            *layout(VERSION, f"{NAME}/"),
        ),
        "symbolic link as VERSION": _only(
            "'VERSION' is a symbolic link", header("VERSION", b"2", link=b"v"), file("v", b"1")
        ),
        "symbolic link under a long name": _beside(
            "nnn'... is a symbolic link", long_name("d/" + "n" * 200), link
        ),
        "symbolic link with a long target": _beside(
            "is a GNU long link name", header("././@LongLink", b"K", 200), padded(b"/" * 200), link
        ),
        "symbolic link of a size": _beside(
            "'odd' is a symbolic link", header("odd", b"2", BLOCK, link=b"/etc"), file("x")
        ),
        "sparse file of the old GNU format": _beside(
            "'odd' is a sparse file", header("odd", b"S", BLOCK, magic=GNU), bytes(BLOCK)
        ),
        "Solaris extended header with content": _beside(
            "'./PaxHeaders/x' is of the unknown kind b'X'", pax({"path": "../x"}, b"X"), file("x")
        ),
    }


def _extensions() -> dict[str, Hostile]:
    """Extended headers that contradict the member's own header."""
    sparse_map = padded(b"1\n0\n1\n")
    return {
        "pax path that leads out": _beside("has '..'", pax({"path": "../../x"}), file("x")),
        "pax path of a folder that leads out": _beside(
            "has '..'", pax({"path": ".."}), folder("x")
        ),
        "pax path that is absolute": _beside("is an absolute", pax({"path": "/x"}), file("x")),
        "pax path with NUL": _beside("control character", pax({"path": "a\0b"}), file("x")),
        "pax path with newline": _beside("control character", pax({"path": "a\nb"}), file("x")),
        "pax path that is empty": _beside("without a name", pax({"path": ""}), file("x")),
        "pax path of another file": _beside(
            "'VERSION' is there twice", pax({"path": "VERSION"}), file("x", b"1")
        ),
        "pax path that is not UTF-8": _beside(
            r"b'caf\xe9' is not UTF-8", pax({"path": b"caf\xe9"}), file("x")
        ),
        "pax path twice": _beside("a second time", raw_pax(b"9 path=a\n9 path=b\n"), file("x")),
        "pax linkpath": _beside("b'linkpath'", pax({"linkpath": "/etc/passwd"}), file("x")),
        "pax linkpath and a link": _beside(
            "b'linkpath'", pax({"linkpath": "/etc"}), header("x", b"2", link=b"y")
        ),
        "pax size that is negative": _beside("with the size b'-1'", pax({"size": "-1"}), file("x")),
        "pax size that is no number": _beside("with the size", pax({"size": "1e9"}), file("x")),
        "pax size twice": _beside("with the size", raw_pax(b"9 size=1\n" * 2), file("x")),
        "pax size that bares hidden members": _beside(
            "damaged", pax({"size": "1"}), file("x", b"x" * 600 + file("../evil", _EVIL))
        ),
        "pax size that hides members": _beside(
            "ends too early", pax({"size": "99999"}), file("x"), file("../evil", _EVIL)
        ),
        "pax size beyond all limits": _beside(
            "it unpacks to more", pax({"size": "9" * 18}), file("x")
        ),
        "pax size of a folder": _beside("'x' has the size 512", pax({"size": "512"}), folder("x")),
        "pax header in another character set": _beside(
            "hdrcharset", pax({"hdrcharset": "BINARY"}), file("x")
        ),
        "sparse file of GNU format 0.0": _beside(
            "b'GNU.sparse.size'",
            raw_pax(
                b"22 GNU.sparse.size=99\n27 GNU.sparse.numblocks=1\n"
                b"23 GNU.sparse.offset=0\n25 GNU.sparse.numbytes=1\n"
            ),
            file("x", b"x"),
        ),
        "sparse file of GNU format 0.1": _beside(
            "b'GNU.sparse.name'",
            pax({"GNU.sparse.name": "../x", "GNU.sparse.map": "0,1", "GNU.sparse.size": "99"}),
            file("x", b"x"),
        ),
        "sparse file of GNU format 1.0": _beside(
            "b'GNU.sparse.major'",
            pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "/x"}),
            file("GNUSparseFile.0/x", sparse_map + b"x"),
        ),
        "sparse file by a global header": _beside(
            "b'GNU.sparse.major'", pax({"GNU.sparse.major": "1"}, b"g"), file("x")
        ),
        "GNU directory dump": _beside("b'GNU.dumpdir'", pax({"GNU.dumpdir": "Ya"}), file("x")),
        "GNU volume": _beside("b'GNU.volume.", pax({"GNU.volume.filename": "a"}), file("x")),
        "global character set": _beside("hdrcharset", pax({"hdrcharset": "x"}, b"g"), file("x")),
        "global path": _beside("a global header with b'path'", pax({"path": "x"}, b"g"), file("y")),
        "global size": _beside("a global header with b'size'", pax({"size": "9"}, b"g"), file("y")),
        "global linkpath": _beside("b'linkpath'", pax({"linkpath": "/"}, b"g"), file("y")),
        "long name that leads out": _beside("has '..'", long_name("../x"), file("x")),
        "long name that is absolute": _beside("is an absolute", long_name("/x"), file("x")),
        "long name with NUL": _beside("control character", long_name("VERSION\0x"), file("x")),
        "long name that is not UTF-8": _beside(
            r"b'caf\xe9' is not UTF-8", long_name(b"caf\xe9"), file("x")
        ),
        "long name twice": _beside(
            "two extended headers", long_name("a"), long_name("b"), file("x")
        ),
        "long name and pax path": _beside(
            "a second time", long_name("a"), pax({"path": "b"}), file("x")
        ),
        "pax header twice": _beside("two extended headers", pax({}), pax({}), file("x")),
        "global header twice": _beside(
            "two extended headers", pax({}, b"g"), pax({}, b"g"), file("x")
        ),
        "pax record of a wrong length": _beside(
            "header that is damaged", raw_pax(b"99 path=b\n"), file("x")
        ),
        "pax record of length 0": _beside(
            "header that is damaged", raw_pax(b"0 path=b\n"), file("x")
        ),
        "pax record without end": _beside(
            "header that is damaged", raw_pax(b"9 path=b"), file("x")
        ),
        "extended header of a megabyte": _beside(
            "an extended header of 1048576", header("x", b"x", MIB), bytes(MIB), file("x")
        ),
        "extended header of 8 GiB": _beside(
            "an extended header of", header("x", b"L", b"\x80" + bytes(6) + b"\2" + bytes(4))
        ),
        "extended header of a negative size": _beside(
            "an extended header of -1", header("x", b"g", b"\xff" * 12)
        ),
        "extended header at the end": _beside("ends after an extended", pax({"path": "x"})),
        "long name at the end": _beside("ends after an extended", long_name("x")),
        "global header at the end": _beside("ends after an extended", pax({"comment": "x"}, b"g")),
    }


def _names() -> dict[str, Hostile]:
    """Names that leave the folder, hide, or are empty."""
    plain = {
        "..": "has '..'",
        "../x": "has '..'",
        "a/../../x": "has '..'",
        "a/..": "has '..'",
        f"{NAME}/../x": "has '..'",
        "./../x": "has '..'",
        "/etc/cron.d/x": "is an absolute path",
        "//x": "is an absolute path",
        "": "without a name",
        ".": "is a file with the name of a folder",
        "./": "is a file with the name of a folder",
        "x/": "is a file with the name of a folder",
        "x/.": "is a file with the name of a folder",
        "a\nroot logged in": r"'a\nroot logged in' has a control character",
        "a\rb": "has a control character",
        "a\x1b[2J": r"'a\x1b[2J' has a control character",
        "a\x7f": "has a control character",
        "a\x85": "has a control character",
        "\tVERSION": "has a control character",
    }
    deep = "/".join("d" * 33)
    return {
        f"name {name!r}": _beside(reason, file(name, _EVIL)) for name, reason in plain.items()
    } | {
        "name that is not UTF-8": _beside(r"b'caf\xe9' is not UTF-8", file(b"caf\xe9")),
        "name with a surrogate": _beside("not UTF-8", file(b"\xed\xa0\x80")),
        "name of overlong UTF-8": _beside("not UTF-8", file(b"..\xc0\xafx")),
        "prefix that is not UTF-8": _beside(
            r"b'caf\xe9' is not UTF-8", header("x", b"0", prefix=b"caf\xe9")
        ),
        "prefix that leads out": _beside("has '..'", header("x", b"0", prefix=b"../..")),
        "prefix that is absolute": _beside("is an absolute", header("x", b"0", prefix=b"/tmp")),
        "folder that leads out": _beside("has '..'", folder("../x/")),
        "folder that is the root": _beside("without a name", folder("/")),
        "folder that is absolute": _beside("is an absolute", folder("/tmp/x")),
        "file of the old kind that leads out": _beside("has '..'", header("../x", b"\0")),
        "path of 33 folders": _beside("lies more than 32 folders deep", file(deep)),
        "path of 1025 bytes": _beside(
            "is longer than 1024", long_name(f"{'d' * 200}/" * 5 + "f" * 20), file("x")
        ),
        "name of 256 bytes": _beside("a part longer than 255", long_name("f" * 256), file("x")),
        "name of 128 letters of two bytes": _beside(
            "a part longer than 255", long_name("\u0101" * 128), file("x")
        ),
    }


def _clashes() -> dict[str, Hostile]:
    """Members that conflict with each other."""
    twice = {
        "file and file": (file("a"), file("a", _EVIL)),
        "file and file, spelled with ./": (file("a"), file("./a", _EVIL)),
        "file and file, spelled with //": (file("b/a"), file("b//a", _EVIL)),
        "file and file, spelled with /./": (file("b/a"), file("b/./a", _EVIL)),
        "folder and folder": (folder("a"), folder("a/")),
        "folder and folder, spelled with ./": (folder("a"), folder("./a/")),
        "folder and folder, spelled with //": (folder("b/a"), folder("b//a//")),
        "root and root": (folder("."), folder("./")),
        "file and file by a long name": (file("a"), long_name("a") + file("x")),
        "VERSION and VERSION": (file("VERSION", b"1"),),
        "script and script, spelled with ./": (file("./install_update.sh", _EVIL, 0o755),),
    }
    needs_folder = "where 'a' is a file"
    takes_folder = "is a file where a folder is needed"
    return {f"twice: {name}": _beside("is there twice", *both) for name, both in twice.items()} | {
        "file beneath a file": _beside(
            f"'a/b' needs a folder {needs_folder}", file("a"), file("a/b")
        ),
        "file far beneath a file": _beside(needs_folder, file("a"), file("./a//b/c")),
        "folder over a file": _beside(needs_folder, file("a"), folder("a")),
        "file over a folder": _beside(takes_folder, folder("a"), file("a")),
        "file over a folder with content": _beside(takes_folder, file("a/b"), file("a")),
        "file over a folder, spelled with //": _beside(takes_folder, folder("b/a"), file("b//a")),
    }


def _layouts() -> dict[str, Hostile]:
    """Well-formed archives that are not the requested update."""
    version, script = layout(VERSION)
    right = b"%d" % VERSION
    no_version, no_script = "no file VERSION", "no file install_update.sh"
    holds_not = "its VERSION does not hold"
    other = "opq-box-update-1547860804/"
    inside = layout(VERSION, f"{NAME}/")
    lookalikes = {
        "version": "in lower case",
        "Version": "in mixed case",
        "\uff36\uff25\uff32\uff33\uff29\uff2f\uff2e": "in full width",
        "VER\u017fION": "with a long s",
    }
    spellings: dict[str, Hostile] = {}
    for name, how in lookalikes.items():
        evil = file(name, right)
        taken = "can be taken for VERSION"
        spellings[f"VERSION {how}"] = _only(taken, evil, script)
        spellings[f"VERSION {how}, beside it"] = _beside(taken, evil)
        spellings[f"VERSION {how}, beside it in the folder"] = _only(
            taken, *inside, file(f"{NAME}/{name}")
        )
    contents = {
        "is empty": b"",
        "has no first line for the kernel": b"true\n",
        "has a byte order mark": b"\xef\xbb\xbf#!/bin/sh\n",
        "has the line ends of Windows": b"#!/bin/sh\r\ntrue\r\n",
    }
    for how, content in contents.items():
        evil = file("install_update.sh", content, 0o755)
        spellings[f"script that {how}"] = _only("cannot be run", version, evil)
    return spellings | {
        "script in capitals, beside it": _beside(
            "can be taken for install_update.sh", file("INSTALL_UPDATE.SH", _EVIL, 0o755)
        ),
        "folder like VERSION": _beside("can be taken for VERSION", file("version/x")),
        "VERSION with a Cyrillic letter": _only(no_version, file("V\u0415RSION", right), script),
        "VERSION with a space behind": _only(no_version, file("VERSION ", right), script),
        "VERSION with an invisible letter": _only(no_version, file("VERSION\u200b", right), script),
        "VERSION missing": _only(no_version, script),
        "VERSION in a folder": _only(no_version, file("a/VERSION", right), script),
        "VERSION as a folder": _only(no_version, folder("VERSION"), script),
        "VERSION of 65 bytes": _only(no_version, file("VERSION", b"1" * 65), script),
        "VERSION of a megabyte": _only(no_version, file("VERSION", bytes(MIB)), script),
        "VERSION of another release": _only(
            f"holds 7 and not {VERSION}", file("VERSION", b"7"), script
        ),
        "VERSION that is empty": _only(holds_not, file("VERSION"), script),
        "VERSION with a zero in front": _only(holds_not, file("VERSION", b"0" + right), script),
        "VERSION that is negative": _only(holds_not, file("VERSION", b"-" + right), script),
        "VERSION that is no number": _only(holds_not, file("VERSION", b"1.5"), script),
        "VERSION in other digits": _only(holds_not, file("VERSION", "\u0661".encode()), script),
        "VERSION with a second line": _only(holds_not, file("VERSION", right + b"\n1"), script),
        "VERSION that is binary": _only(holds_not, file("VERSION", b"\xff\0"), script),
        "script missing": _only(no_script, version),
        "script as a folder": _only(no_script, version, folder("install_update.sh")),
        "script that is not executable": _only(
            "install_update.sh is not executable", *layout(VERSION, mode=0o644)
        ),
        "script that only others may run": _only(
            "install_update.sh is not executable", *layout(VERSION, mode=0o611)
        ),
        "file outside of the top-level folder": _only("'x' lies outside", *inside, file("x")),
        "script outside of the top-level folder": _only(
            "'install_update.sh' lies outside", *inside, file("install_update.sh", SCRIPT, 0o755)
        ),
        "file before the top-level folder": _only(no_version, file("x"), *inside),
        "VERSION of another release in a folder of this one": _only(
            f"holds 7 and not {VERSION}", *layout(7, f"{NAME}/")
        ),
        "two top-level folders": _only(
            f"'{other}VERSION' lies outside the folder {NAME}", *inside, *layout(VERSION, other)
        ),
        "top-level folder that looks alike": _only(
            no_version, *layout(VERSION, NAME.replace("-", "\u2010") + "/")
        ),
        **{
            f"top-level folder with {what}": _only(no_version, *layout(VERSION, top))
            for what, top in {
                "nothing after its beginning": "opq-box-update-/",
                "another beginning": "opq-box-updates-1/",
                "65 characters": f"opq-box-update-{'1' * 65}/",
                "a space": "opq-box-update-1 2/",
                "an umlaut": "opq-box-update-\u00fc/",
                "a line end": "opq-box-update-1\u2028/",
            }.items()
        },
        "top-level folder in capitals": _only(no_version, *layout(VERSION, f"{NAME.upper()}/")),
        "top-level folder twice beneath itself": _only(
            no_version, *layout(VERSION, f"{NAME}/{NAME}/")
        ),
        "top-level folder as a file": _only(no_version, file(NAME)),
        "no member": _only(no_version),
    }


def _streams() -> dict[str, Hostile]:
    """Damage to the tar stream."""
    good = stream(*layout(VERSION), file("a", b"a" * 600))
    damaged, early, behind = "is damaged", "ends too early", "data after its end"
    return {
        "wrong checksum": _tar(damaged, _flipped(good, 0)),
        "wrong checksum of a later member": _tar(damaged, _flipped(good, 2 * BLOCK + 120)),
        "checksum that is no number": _tar(damaged, good[:148] + b"garbage " + good[156:]),
        "size that is negative": _beside("has the size -1", header("x", b"0", b"-0000000001\0")),
        "size that is negative in base 256": _beside(
            "has the size -1", header("x", b"0", b"\xff" * 12)
        ),
        "size in base 256 beyond all limits": _beside(
            "it unpacks to more", header("x", b"0", b"\x80" + b"\x7f" * 11)
        ),
        "size that is no number": _beside(damaged, header("x", b"0", b"garbage")),
        "size of a folder": _beside("'x' has the size 512", header("x", b"5", BLOCK), bytes(BLOCK)),
        "size beyond the end": _beside(early, header("x", b"0", MIB), b"x"),
        "no end": _tar(early, good[: -len(END)]),
        "half an end": _tar(early, good[:-BLOCK]),
        "cut off in a header": _tar(early, good[: 2 * BLOCK + 100]),
        "cut off in a content": _tar(early, good[: -len(END) - BLOCK]),
        "one zero block in the middle": _tar(
            behind, layout(VERSION)[0] + bytes(BLOCK) + stream(layout(VERSION)[1])
        ),
        "second archive behind the end": _tar(behind, good + good),
        "a byte behind the end": _tar(behind, good + b"x"),
        "garbage far behind the end": _tar(behind, good + bytes(BLOCK * 9) + b"x"),
        "zeros without end behind the end": _tar(behind, good + bytes(MIB + 1)),
        "only zeros": _tar(behind, bytes(8 * MIB)),
        "two blocks of zeros": _tar("no file VERSION", END),
        "nothing": _tar(early, b""),
        "text": _tar(damaged, b"This is no archive. " * 100),
        "zip file": _tar(damaged, b"PK\3\4" + bytes(1000)),
        "bzip2 file in a bzip2 file": _tar(damaged, _GOOD + bytes(BLOCK)),
    }


def _compressions() -> dict[str, Hostile]:
    """Damage to the bzip2 file, or another kind of file."""
    none, damaged = "is cut off, or no bzip2 file", "its bzip2 data is damaged"
    tar = bz2.decompress(_GOOD)
    halves = bz2.compress(tar[:700]), bz2.compress(tar[700:])
    # The first block's checksum stands behind the file's 4 bytes and the block's mark of 6.
    return {
        "empty file": _file(none, b""),
        "one byte": _file(none, b"B"),
        "tar stream that is not compressed": _file(none, tar),
        "gzip": _file(none, gzip.compress(tar)),
        "xz": _file(none, lzma.compress(tar)),
        "lzma": _file(none, lzma.compress(tar, lzma.FORMAT_ALONE)),
        "bzip1": _file(none, b"BZ0" + _GOOD[3:]),
        "block size 0": _file(none, b"BZh0" + _GOOD[4:]),
        "cut off": _file(none, _GOOD[:-1]),
        "cut off in the middle": _file(none, _GOOD[: len(_GOOD) // 2]),
        "cut off before an end": _file(damaged, _GOOD[:-60] + _GOOD[-11:]),
        "wrong checksum of a block": _file(damaged, _flipped(_GOOD, 12)),
        "wrong checksum of the stream": _file(damaged, _flipped(_GOOD, -3)),
        "a flipped bit in the data": _file(damaged, _flipped(_GOOD, len(_GOOD) // 2)),
        "garbage in front": _file(none, b"x" + _GOOD),
        "a byte behind": _file(none, _GOOD + b"x"),
        "zeros behind": _file(none, _GOOD + bytes(BLOCK)),
        "header behind": _file(none, _GOOD + b"BZh91AY&SY"),
        "whole and cut off": _file(none, _GOOD + _GOOD[:-1]),
        "garbage behind, with an end": _file(damaged, _GOOD + b"garbage" + _GOOD[-20:]),
        "garbage behind, then an empty stream": _file(damaged, _GOOD + b"x" + _EMPTY),
        "zeros behind, then an empty stream": _file(damaged, _GOOD + bytes(4) + _EMPTY),
        "garbage behind, then the same": _file(damaged, _GOOD + b"x" + _GOOD),
        "half a header behind, then an empty stream": _file(damaged, _GOOD + b"BZh" + _EMPTY),
        "garbage between two halves": _file(damaged, halves[0] + b"garbage" + halves[1]),
        "garbage between whole and evil": _file(
            damaged, _GOOD + b"garbage" + bz2.compress(stream(file("../evil", _EVIL)))
        ),
        "halves in the wrong order": _file("is damaged", halves[1] + halves[0]),
        "first half alone": _file("ends too early", halves[0]),
        "second half cut off": _file(none, halves[0] + halves[1][:-20]),
        "whole twice": _file("data after its end", _GOOD + _GOOD),
        "empty stream": _file("ends too early", _EMPTY),
        "too many streams": Hostile(
            "more than 65536 bzip2 streams", lambda: _GOOD + _EMPTY * (1 << 16)
        ),
    }


def _too_many() -> dict[str, Hostile]:
    def many(member: Callable[[int], bytes]) -> Hostile:
        return Hostile(
            "more than 100000 files and folders",
            lambda: bz2.compress(stream(*layout(VERSION), *map(member, range(100_000))), 1),
        )

    def deep(number: int) -> bytes:
        return file(f"{number}/{'d/' * 30}f") if number < 3_200 else b""

    return {
        "too many files": many(lambda number: file(f"{number}")),
        "too many folders that are only implied": many(deep),
    }


def _bombs() -> dict[str, Hostile]:
    """Small files with a large content."""
    too_much = "it unpacks to more than 64 MiB"
    zeros = bz2.compress(bytes(8 * MIB))

    def one_file() -> bytes:
        return (
            bz2.compress(b"".join(layout(VERSION)) + header("zeros", b"0", 1 << 30)) + zeros * 128
        )

    def many_files() -> bytes:
        members = (bz2.compress(header(str(number), b"0", 8 * MIB)) for number in range(128))
        start = bz2.compress(b"".join(layout(VERSION)))
        return start + b"".join(member + zeros for member in members) + bz2.compress(END)

    def extended_headers() -> bytes:
        comment = bz2.compress(pax({"comment": "x" * 60_000}))
        members = (comment + bz2.compress(file(str(number))) for number in range(1200))
        return bz2.compress(b"".join(layout(VERSION))) + b"".join(members) + bz2.compress(END)

    return {
        "a gibibyte of zeros in one file": Hostile(too_much, one_file),
        "a gibibyte of zeros in many files": Hostile(too_much, many_files),
        "a gibibyte of zeros without a header": Hostile(
            "data after its end", lambda: bz2.compress(b"".join(layout(VERSION))) + zeros * 128
        ),
        "a gibibyte of zeros that is no tar stream": Hostile(
            "data after its end", lambda: zeros * 128
        ),
        "much in extended headers": Hostile(too_much, extended_headers),
        "a file of an exbibyte": _beside(
            too_much, header("x", b"0", b"\x80" + bytes(3) + b"\x10" + bytes(7))
        ),
    }


#: By what each of them tries. All are refused under the usual limits, before much is written.
HOSTILE: dict[str, Hostile] = (
    _kinds() | _extensions() | _names() | _clashes() | _layouts() | _streams() | _compressions()
)

#: The same, but of very many members.
TOO_MANY = _too_many()

#: These are refused under `BOMB_LIMIT`, and may be written to the disk up to that.
BOMBS = _bombs()


@dataclass(frozen=True)
class Harmless:
    """An odd archive that is accepted, and the mode of one path in it."""

    path: str
    mode: int
    members: tuple[bytes, ...]

    def build(self) -> bytes:
        """A good update with the odd members."""
        return bz2.compress(stream(*layout(VERSION), *self.members), 1)


_LONGEST = "/".join(["d" * 200] * 5 + ["f" * 19])
_DEEPEST = "/".join("d" * 32)

#: What is odd and yet does no harm once it is unpacked.
HARMLESS: dict[str, Harmless] = {
    "set-user-id": Harmless("x", 0o755, (file("x", b"", 0o4755),)),
    "set-group-id": Harmless("x", 0o755, (file("x", b"", 0o2755),)),
    "sticky file": Harmless("x", 0o644, (file("x", b"", 0o1644),)),
    "all bits": Harmless("x", 0o755, (file("x", b"", 0o7777),)),
    "no bits": Harmless("x", 0o644, (file("x", b"", 0),)),
    "writable by all": Harmless("x", 0o644, (file("x", b"", 0o666),)),
    "folder with all bits": Harmless("x", 0o755, (header("x", b"5", mode=0o7777),)),
    "folder without bits": Harmless("x", 0o755, (header("x", b"5", mode=0), file("x/y"))),
    "set-user-id in an old header": Harmless("x", 0o755, (header("x", b"\0", mode=0o4755),)),
    "what follows a NUL in a name": Harmless("x", 0o644, (file(b"x\0/../../y"),)),
    "link name of a file": Harmless("x", 0o644, (header("x", b"0", link=b"/etc/passwd"),)),
    "backslashes": Harmless("..\\..\\x", 0o644, (file("..\\..\\x"),)),
    "drive letter": Harmless("C:", 0o644, (file("C:"),)),
    "more dots": Harmless(".../x", 0o644, (file(".../x"),)),
    "option": Harmless(
        "--checkpoint-action=exec=sh", 0o644, (file("--checkpoint-action=exec=sh"),)
    ),
    "two names that differ in case": Harmless("a/X", 0o644, (file("a/x"), file("a/X"))),
    "version in a folder": Harmless("a/version", 0o644, (file("a/VERSION"), file("a/version"))),
    "path of 1024 bytes": Harmless(_LONGEST, 0o644, (long_name(_LONGEST), file("x"))),
    "path of 32 folders": Harmless(_DEEPEST, 0o644, (file(_DEEPEST),)),
    "VERSION in Greek": Harmless("VERSI\u039fN", 0o644, (file("VERSI\u039fN"),)),
    "right to left": Harmless("\u202egpj.sh", 0o644, (file("\u202egpj.sh"),)),
    "bzip2 bomb as a file": Harmless("x", 0o644, (file("x", bz2.compress(bytes(8 * MIB))),)),
    "archive as a file": Harmless("x", 0o644, (file("x", stream(file("../evil", _EVIL))),)),
    "owner in a pax header": Harmless("x", 0o644, (pax({"uid": "0", "gid": "0"}), file("x"))),
    "capability in a pax header": Harmless(
        "x", 0o755, (pax({"SCHILY.xattr.security.capability": b"\1\0\0\2"}), file("x", b"", 0o755))
    ),
}
