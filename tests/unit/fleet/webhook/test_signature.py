"""The signature of a message, and the program of the documentation that checks it."""

import re
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.webhook.post import sign
from tests.helpers.project import PROJECT

SECRET = "correct horse battery staple"
BODY = b'{"text": "K\xc3\xbcche"}'


def documented() -> Any:
    """Return the function of the documentation."""
    text = (PROJECT / "docs" / "operating-a-fleet.md").read_text()
    found = re.search(r"```python\n(.*?def is_genuine.*?)```", text, re.S)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["is_genuine"]


class SignatureTests(SynchronousTestCase):
    """What a receiver checks."""

    def test_value(self) -> None:
        """The header has the time, and the HMAC in hexadecimal (with OpenSSL's result)."""
        self.assertEqual(
            sign(b"body", 1_800_000_000, "secret"),
            "t=1800000000,sha256=1d26931343beaba0d64eb505a123c227f639c345becfd8d121c41755e6a46674",
        )

    def test_documented(self) -> None:
        """The documented function accepts a message of now, and no other."""
        is_genuine, now = documented(), int(time.time())
        header = sign(BODY, now, SECRET)
        self.assertTrue(is_genuine(header, BODY, SECRET))
        self.assertFalse(is_genuine(header, BODY + b" ", SECRET))
        self.assertFalse(is_genuine(header, BODY, "another secret"))
        self.assertFalse(is_genuine(header.replace(f"t={now}", f"t={now + 1}"), BODY, SECRET))
        self.assertFalse(is_genuine(sign(BODY, now - 600, SECRET), BODY, SECRET))
        for wrong in ("", "t=,sha256=", "sha256=00", "t=1,sha256=\u00e9"):
            self.assertFalse(is_genuine(wrong, BODY, SECRET), wrong)
