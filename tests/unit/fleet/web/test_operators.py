"""The operators' file, and its mistakes."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.web.operators import (
    Operator,
    OperatorsInvalid,
    Role,
    TokenHash,
    parse,
    with_operator,
    without,
)
from opq_twisted.http.guards.password import PasswordHash

ANNA = Operator("anna", Role.OPERATOR, PasswordHash.of_nobody())
GRAFANA = Operator("grafana", Role.VIEWER, TokenHash.of("secret"))


class FileTests(SynchronousTestCase):
    """What the file says."""

    def test_round_trip(self) -> None:
        """Lines that were written are read; comments and empty lines are skipped."""
        text = f"# people\n{ANNA}\n\n  # programs\n{GRAFANA}\n"
        self.assertEqual(parse(text), {"anna": ANNA, "grafana": GRAFANA})
        self.assertEqual(parse(""), {})

    def test_changes(self) -> None:
        """A change leaves all other lines as they are, and a name is there once."""
        text = f"# people\n{ANNA}\n"
        both = with_operator(text, GRAFANA)
        self.assertEqual(both, f"{text}{GRAFANA}\n")
        viewer = Operator("anna", Role.VIEWER, ANNA.secret)
        self.assertEqual(with_operator(both, viewer), f"# people\n{GRAFANA}\n{viewer}\n")
        self.assertEqual(without(both, "anna"), f"# people\n{GRAFANA}\n")

    def test_mistakes(self) -> None:
        """One wrong line makes the whole file invalid; the sentence has its number."""
        for line, reason in (
            ("anna operator", "a name, a role and a hash"),
            (f"{ANNA} more", "a name, a role and a hash"),
            (f"a:b viewer {GRAFANA.secret}", "'a:b' cannot be the name"),
            (f"\x1b[31m viewer {GRAFANA.secret}", "'\\x1b[31m' cannot be the name"),
            (f"{'x' * 65} viewer {GRAFANA.secret}", "'xxx"),
            (f"engine operator {GRAFANA.secret}", "reserved for decisions of the server"),
            (f"anna admin {GRAFANA.secret}", "the role of anna must be"),
            ("anna viewer secret", "the hash of anna"),
            (f"anna viewer {GRAFANA.secret}0", "the hash of anna"),
            ("anna viewer $scrypt$ln=20,r=8,p=5$AAAAAAAAAAAAAAAAAAAAAA$" + "A" * 43, "the hash"),
            (str(GRAFANA), "the name grafana is there twice"),
        ):
            with self.subTest(line=line):
                text = f"{GRAFANA}\n\n{line}\n"
                error = str(self.assertRaises(OperatorsInvalid, parse, text))
                self.assertTrue(error.startswith("line 3: "), error)
                self.assertIn(reason, error)
                self.assertIn("opq-fleet add-operator", error)

    def test_many_mistakes(self) -> None:
        """Of many mistakes the first ones are told, and how many there are."""
        error = str(self.assertRaises(OperatorsInvalid, parse, "x\n" * 1000))
        self.assertIn("line 5: ", error)
        self.assertIn("; and 995 more.", error)
