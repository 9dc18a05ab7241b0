"""A report is sent again in the form that the server wants, and never in a loop."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.report.answers import Result, Verdict
from opq_twisted.box.report.exchange import Exchange
from opq_twisted.box.report.identity import Identity
from opq_twisted.box.report.record import ReportRecord, SentReport
from opq_twisted.box.state.journal import Journal
from opq_twisted.common.strict_json import MAX_NUMBER
from opq_twisted.report.signature import is_signed
from tests.helpers.report_fakes import PUBKEY, FakeClient, FakeComposer, attempt

NOW = 1_700_100_000.0


class ExchangeCase(SynchronousTestCase):
    """An exchange whose server is the test."""

    def setUp(self) -> None:
        self.identity = Identity(Ed25519PrivateKey.generate())
        self.composer = FakeComposer(self.identity.fingerprint)
        self.client = FakeClient()
        self.record = ReportRecord(self.identity.fingerprint)
        self.journal = Journal(Path(self.mktemp()), "boot")
        self.exchange = Exchange(
            self.composer, self.identity, self.client, self.journal, self.record, lambda: NOW
        )

    def send(self) -> None:
        self.results: list[Result] = []
        self.sending = Deferred.fromCoroutine(self.exchange.send())
        self.sending.addCallback(self.results.append)

    @property
    def result(self) -> Result:
        [result] = self.results
        assert self.record.last is not None
        self.assertEqual(self.record.last.answer, result.sentence)
        return result

    @property
    def seqs(self) -> list[int]:
        return [report.seq for report in self.client.reports]


class AcceptedTests(ExchangeCase):
    """A server that accepts the report."""

    def test_signed(self) -> None:
        """The report is signed by the box's key, and has the next sequence number."""
        self.journal.seq = 40
        self.send()
        [(body, signature)] = self.client.bodies
        self.assertTrue(is_signed(self.identity.public, body, signature))
        self.assertEqual((self.seqs, self.journal.seq), ([41], 41))
        self.assertIsNone(self.client.reports[0].pubkey)

    def test_done(self) -> None:
        """Attempts of the report that ended are done if the server says so; no others are."""
        attempts = (attempt(1), attempt(2), attempt(3, None))
        self.composer.change(attempts=attempts)
        self.send()
        self.client.answer(
            200, seq=1, done=[attempts[0].id, attempts[2].id, attempt(4).id, 7, None, {}, []]
        )
        self.assertEqual(self.result.verdict, Verdict.ACCEPTED)
        self.assertEqual(self.result.done, (attempts[0].id,))
        self.assertEqual(self.result.sentence, "The update server has accepted it.")

    def test_word_for_word(self) -> None:
        """The last report is recorded as it was sent, before the answer comes."""
        self.send()
        text = self.client.bodies[0][0].decode()
        sent = SentReport(text, NOW, "It has not been answered yet.")
        self.assertEqual(self.record.last, sent)
        self.assertEqual(json.loads(sent.indented), json.loads(text))
        self.client.accept()
        self.assertEqual(self.result.verdict, Verdict.ACCEPTED)

    def test_login_page(self) -> None:
        """A page of a network that wants a login, or other nonsense, accepts nothing."""
        for body in (
            *(b"", b"<!doctype html>", b"[]", b"null", b"{}", b'{"done": {}}', b'{"done": "x"}'),
            *(b"\xff", b"[" * 4000, b'{"done": NaN}', b"9" * 4000),
        ):
            with self.subTest(body=body[:20]):
                self.send()
                self.client.answer_raw(200, body)
                self.assertEqual((self.result.verdict, self.result.done), (Verdict.FAILED, ()))


class AnotherFormTests(ExchangeCase):
    """A server that wants the report in another form."""

    def test_introduced(self) -> None:
        """A server that does not know the key gets it, once."""
        self.send()
        self.client.answer(401)
        self.assertEqual([each.pubkey for each in self.client.reports], [None, PUBKEY])
        self.client.accept()
        self.assertEqual(self.result.verdict, Verdict.ACCEPTED)
        self.send()
        self.assertIsNone(self.client.reports[-1].pubkey)

    def test_introduced_in_vain(self) -> None:
        """A server that never takes the key is not asked again now."""
        self.send()
        self.client.answer(401)
        self.client.answer(401)
        self.assertEqual(self.result.verdict, Verdict.FAILED)
        self.assertEqual(len(self.client.bodies), 2)

    def test_larger_seq(self) -> None:
        """A server that knows a larger number gets the next one."""
        self.send()
        self.client.answer(409, seq=57)
        self.client.accept()
        self.assertEqual((self.seqs, self.journal.seq), ([1, 58], 58))

    def test_smaller_seq(self) -> None:
        """A damaged journal, and a forged answer, are mended by the number of the server."""
        for wrong in (40, 2**40, MAX_NUMBER - 1):
            self.journal.seq = wrong
            self.send()
            self.client.answer(409, seq=7)
            self.client.accept()
            self.assertEqual((self.seqs[-1], self.journal.seq), (8, 8))

    def test_impossible_seq(self) -> None:
        """The last number, which has no next one, is not believed, nor anything else."""
        for seq in (MAX_NUMBER, -1, 7.0, True, "7", None, [7]):
            with self.subTest(seq=seq):
                self.send()
                before = self.journal.seq
                self.client.answer(409, seq=seq)
                self.assertEqual(self.result.verdict, Verdict.FAILED)
                self.assertEqual(self.journal.seq, before)

    def test_conflicts_without_end(self) -> None:
        """A server that knows a larger number each time is asked a few times only."""
        self.send()
        for number in range(1, 7):
            self.client.answer(409, seq=100 * number)
        self.assertEqual(self.result.verdict, Verdict.FAILED)
        self.assertEqual(self.seqs, [1, 101, 201, 301, 401, 501])

    def test_too_large(self) -> None:
        """A report that is too large is sent with half of its attempts, and then with one."""
        self.composer.change(attempts=tuple(map(attempt, range(20))))
        self.send()
        for _ in range(3):
            self.client.answer(413)
        self.assertEqual([len(each.attempts) for each in self.client.reports], [20, 10, 1])
        self.assertEqual(self.result.verdict, Verdict.FAILED)

    def test_too_large_without_attempts(self) -> None:
        """A report with one attempt, or none, cannot be smaller."""
        for attempts in ((), (attempt(1),)):
            self.composer.change(attempts=attempts)
            self.send()
            self.client.answer(413)
            self.assertEqual(self.result.verdict, Verdict.FAILED)

    def test_everything_wrong(self) -> None:
        """A hostile server that mixes all answers gets a few requests, with growing numbers."""
        self.composer.change(attempts=tuple(map(attempt, range(20))))
        self.send()
        for status in (401, 413, 409, 413, 409, 409):
            self.client.answer(status, seq=5)
        self.assertEqual(self.result.verdict, Verdict.FAILED)
        self.assertEqual(self.seqs, [1, 2, 3, 6, 7, 6])


class NotAcceptedTests(ExchangeCase):
    """A server that does not accept the report."""

    def test_verdicts(self) -> None:
        """Each status has a sentence for the owner."""
        for status, verdict, words in (
            (400, Verdict.REFUSED, "does not understand it"),
            (403, Verdict.FAILED, f"admit the fingerprint {self.identity.fingerprint}."),
            (404, Verdict.NO_FLEET, "takes no reports"),
            (405, Verdict.NO_FLEET, "takes no reports"),
            (429, Verdict.FAILED, "is busy"),
            (503, Verdict.FAILED, "is busy"),
            (302, Verdict.FAILED, "answers 302"),
            (201, Verdict.FAILED, "answers 201"),
            (500, Verdict.FAILED, "answers 500"),
        ):
            with self.subTest(status=status):
                self.send()
                self.client.answer(status, 7.0)
                self.assertEqual((self.result.verdict, self.result.retry_after), (verdict, 7.0))
                self.assertIn(words, self.result.sentence)

    def test_no_answer(self) -> None:
        """A server that cannot be reached is a failure with its sentence."""
        self.send()
        self.client.fail("Cannot reach it.")
        self.assertEqual(self.result.verdict, Verdict.FAILED)
        self.assertEqual(self.result.sentence, "Cannot reach it.")

    def test_cancelled(self) -> None:
        """Cancelling ends the request, and sends no other one."""
        self.send()
        self.sending.cancel()
        self.failureResultOf(self.sending, CancelledError)
        self.assertTrue(self.client.is_cancelled)
