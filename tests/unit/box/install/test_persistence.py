"""The file systems that lose their files at a restart."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.install.persistence import is_forgotten

CARD = "20 1 179:2 / {} rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw"
MEMORY = "21 1 0:30 / {} rw shared:2 - tmpfs tmpfs rw,size=10240k"
OVERLAY = (
    "22 1 0:31 / {} rw,relatime shared:3 - overlay overlayroot rw,lowerdir=/media/root-ro,"
    "upperdir={}/overlay,workdir={}/work"
)


class ForgottenTests(SynchronousTestCase):
    """A path with different tables of mounts."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.mounts, self.command_line = self.folder / "mounts", self.folder / "cmdline"
        self.path = Path("/opt/opq")

    def is_forgotten(self, *mounts: str, booted_with: str = "root=/dev/mmcblk0p2") -> bool:
        self.mounts.write_text("\n".join(mounts) + "\n")
        self.command_line.write_text(f"{booted_with}\n")
        return is_forgotten(self.path, self.mounts, self.command_line)

    def test_card(self) -> None:
        """A card keeps its files."""
        self.assertFalse(self.is_forgotten(CARD.format("/")))

    def test_overlay_in_memory(self) -> None:
        """An overlay loses the changes that it stores in memory."""
        upper = "/media/root-rw"
        overlay = OVERLAY.format("/", upper, upper)
        self.assertTrue(self.is_forgotten(CARD.format("/"), overlay, MEMORY.format(upper)))

    def test_space_in_name(self) -> None:
        """Names with spaces are decoded."""
        upper = r"/media/root\040rw"
        overlay = OVERLAY.format("/", upper, upper)
        self.assertTrue(self.is_forgotten(overlay, MEMORY.format(upper)))

    def test_overlay_on_card(self) -> None:
        """An overlay keeps the changes that it stores on the card."""
        overlay = OVERLAY.format("/", "/data", "/data")
        self.assertFalse(
            self.is_forgotten(overlay, CARD.format("/data"), booted_with="overlayroot=/dev/sda1")
        )

    def test_overlay_on_overlay(self) -> None:
        """An overlay loses the changes that it stores in another overlay in memory."""
        self.assertTrue(
            self.is_forgotten(
                OVERLAY.format("/", "/memory", "/memory"),
                MEMORY.format("/memory"),
                OVERLAY.format("/opt", "/writable", "/writable"),
            )
        )

    def test_unseen(self) -> None:
        """If the initramfs has mounted the upper directory, the kernel's command line decides."""
        overlay = OVERLAY.format("/", "/upper", "/upper")
        for words, forgotten in (
            ("quiet boot=overlay root=/dev/mmcblk0p2", True),
            ("overlayroot=tmpfs", True),
            ("overlayroot=tmpfs:recurse=0 quiet", True),
            ("systemd.volatile=overlay", True),
            ("overlayroot=disabled", False),
            ("noboot=overlay", False),
            # A container's storage is not seen either.
            ("quiet", False),
        ):
            with self.subTest(words=words):
                self.assertEqual(self.is_forgotten(overlay, booted_with=words), forgotten)

    def test_partition_of_its_own(self) -> None:
        """A partition of its own keeps its files, whatever the root is."""
        root = OVERLAY.format("/", "/upper", "/upper")
        card = CARD.format("/opt")
        self.assertFalse(self.is_forgotten(root, card, booted_with="boot=overlay"))

    def test_hidden_mount(self) -> None:
        """Of two mounts at the same point, the later one counts."""
        hidden, upper = CARD.format("/opt"), MEMORY.format("/memory")
        overlay = OVERLAY.format("/opt", "/memory", "/memory")
        self.assertTrue(self.is_forgotten(CARD.format("/"), hidden, upper, overlay))
        self.assertFalse(self.is_forgotten(CARD.format("/"), upper, overlay, hidden))

    def test_similar_name(self) -> None:
        """A mount applies to the paths in it, not to paths with the same prefix."""
        overlay = OVERLAY.format("/op", "/memory", "/memory")
        self.assertFalse(self.is_forgotten(CARD.format("/"), MEMORY.format("/memory"), overlay))

    def test_memory(self) -> None:
        """A plain tmpfs does not count."""
        self.assertFalse(self.is_forgotten(CARD.format("/"), MEMORY.format("/opt")))

    def test_read_only_overlay(self) -> None:
        """An overlay without an upper directory is read-only, and does not count."""
        overlay = "22 1 0:31 / / ro - overlay overlay ro,lowerdir=/a:/b"
        self.assertFalse(self.is_forgotten(overlay, booted_with="boot=overlay"))

    def test_odd_table(self) -> None:
        """Unreadable or invalid tables do not count."""
        self.assertFalse(self.is_forgotten("", "nonsense", "1 2 3 - overlay"))
        self.mounts.unlink()
        self.assertFalse(is_forgotten(self.path, self.mounts, self.command_line))
