"""Tests of the example in the documentation of the protocol."""

import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.report.codes import Waiting
from opq_twisted.report.document import AttemptReport, Report
from opq_twisted.report.parse import parse
from opq_twisted.report.signature import HEADER, is_signed, key_id, proof_of, sign
from tests.helpers.project import PROJECT


class TestProtocolPage(SynchronousTestCase):
    """The section about reports in `docs/protocol.md`."""

    def setUp(self) -> None:
        page = (PROJECT / "docs" / "protocol.md").read_text(encoding="utf-8")
        self.section = page[page.index("\n## Reports") :]

    def test_signature(self) -> None:
        """The signature of the example is that of its body by the key that the page names."""
        found = re.search(rf"^{HEADER}: (\S+)\n\n(.*)$", self.section, re.MULTILINE)
        assert found is not None
        signature, body = found[1], found[2].encode()
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        public = key.public_key().public_bytes_raw()
        self.assertEqual(sign(key, body), signature)
        self.assertTrue(is_signed(public, body, signature))
        self.assertEqual(parse(body).key, key_id(public))
        self.assertIn(f"`{public.hex()}`", self.section)
        self.assertIn(f"`{proof_of('correct horse battery', public)}`", self.section)

    def test_fields(self) -> None:
        """The page has all fields of a report and an attempt, and all words for the wait."""
        fields = {each.name for each in (*Report.__attrs_attrs__, *AttemptReport.__attrs_attrs__)}
        fields = fields - {"previous"} | {"from", "format"} | {each.value for each in Waiting}
        named = set(re.findall(r"`([a-z_]+)`", self.section))
        self.assertEqual(fields - named, set())
