"""Hashes of passwords are read from files that people may have written by hand."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.guards.password import PasswordHash

_REST = f"${'A' * 22}${'A' * 43}"


class ParsingTests(SynchronousTestCase):
    """PHC strings."""

    def test_usable(self) -> None:
        """Each hash that is accepted can be checked."""
        for parameters in ("ln=1,r=1,p=1", "ln=15,r=1,p=1", "ln=1,r=99,p=9", "ln=16,r=8,p=1"):
            hashed = PasswordHash.parse(f"$scrypt${parameters}{_REST}")
            assert hashed is not None, parameters
            self.assertFalse(hashed.matches("guess"))

    def test_unusable(self) -> None:
        """Parameters that scrypt does not know, or for which there is no memory, are refused."""
        for parameters in (
            *("ln=0,r=8,p=1", "ln=14,r=0,p=1", "ln=14,r=8,p=0"),
            *("ln=16,r=1,p=1", "ln=19,r=1,p=1", "ln=17,r=8,p=1"),
        ):
            self.assertIsNone(PasswordHash.parse(f"$scrypt${parameters}{_REST}"), parameters)
