"""Whatever a server answers, the box sends little, and an honest server then gets everything."""

from hypothesis import given, settings
from hypothesis import strategies as st

from opq_twisted.box.report.exchange import _MAX_REQUESTS
from opq_twisted.box.state.records import Attempt
from tests.helpers.box_fakes import NEW
from tests.helpers.report_fakes import attempt
from tests.unit.box.report.test_scheduler import DAY, HOUR, SenderCase

#: What can happen next, and how: an answer's status, or the seconds that pass.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.none()),
        st.tuples(st.just("check"), st.none()),
        st.tuples(st.just("install"), st.none()),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("pass"), st.sampled_from([1.0, 10.0, 31.0, HOUR, DAY])),
        st.tuples(
            st.just("answer"),
            st.sampled_from([200, 204, 302, 400, 401, 403, 404, 405, 409, 413, 429, 500, 503]),
        ),
    ),
    max_size=40,
)
BODIES = st.sampled_from(
    [b"", b"{}", b'{"seq": 7}', b'{"seq": 9007199254740991}', b'{"done": []}', b'{"done": ["x"]}']
)


class AnyServerTests(SenderCase):
    """Random histories of a box and its server."""

    @settings(max_examples=100)
    @given(STEPS, BODIES, st.sampled_from([0.0, 5.0, HOUR, DAY]))
    def test_any(self, steps: list[tuple[str, float | None]], body: bytes, pause: float) -> None:
        """Each trigger causes a few requests at most; an honest server then gets everything."""
        self.setUp()
        triggers = 1
        for number, (step, detail) in enumerate(steps):
            if step in ("end", "check", "install"):
                triggers += 1
            if step == "end":
                self.finish_attempt(number)
            elif step == "check":
                self.sender.checked()
            elif step == "install":
                self.begin_install()
            elif step == "pass" and detail is not None:
                self.clock.advance(detail)
            elif step == "lose" and self.client.is_asked:
                self.client.fail()
            elif step == "answer" and self.client.is_asked and detail is not None:
                self.client.answer_raw(int(detail), body, pause)
        self.assertLessEqual(self.sent, triggers * _MAX_REQUESTS)
        self.become_honest()
        self.assertEqual([each for each in self.journal.entry.attempts if not each.reported], [])
        before = self.sent
        for _ in range(12):
            self.sender.checked()
            self.clock.advance(HOUR)
        # The report of the day may be due within these hours.
        self.assertLessEqual(self.sent - before, 1)

    def finish_attempt(self, number: int) -> None:
        """An attempt ends."""
        uuid = attempt(number).id
        recorded = Attempt(NEW, 1.0, 2.0, "updated", "It runs.", number, uuid=uuid)
        self.journal.write(attempts=(*self.journal.entry.attempts, recorded)[-20:])
        self.refresh()
        self.sender.attempt_ended()

    def refresh(self) -> None:
        """No attempt is under way any more."""
        ended = tuple(attempt(each.id) for each in self.journal.entry.attempts)
        self.composer.change(attempts=ended)

    def become_honest(self) -> None:
        """Two days with a good server, and a check each hour."""
        for _ in range(60):
            self.refresh()
            self.sender.checked()
            self.clock.advance(HOUR)
            while self.client.is_asked:
                sent = self.client.reports[-1].attempts
                self.client.accept(*[each.id for each in sent if each.outcome is not None])
