"""Authenticates the requests to the page: a person by a password, a program by a token."""

from collections.abc import Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from opq_twisted.common.log import RepeatedLine
from opq_twisted.fleet.web.operators import Operator, TokenHash
from opq_twisted.fleet.web.operators_file import OperatorsFile
from opq_twisted.http.guards.password import PasswordHash
from opq_twisted.http.guards.password_check import (
    Credentials,
    InThread,
    PasswordCheck,
    read_credentials,
)

#: The limit of characters of a token.
_MAX_TOKEN = 200


class Authentication:
    """
    Checks the Authorization header of a request.

    For an unknown name, a password is hashed as for a known one. So the time until the answer does
    not show which names exist.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, file: OperatorsFile, in_thread: InThread = deferToThread
    ) -> None:
        self._file = file
        self._check = PasswordCheck(clock, in_thread)
        self._nobody = PasswordHash.of_nobody()
        self._wrong = RepeatedLine(clock, lambda line: self._log.warn("{line}", line=line))
        self._by_token: Mapping[str, Operator] = {}
        file.observers.append(self._operators_changed)
        self._operators_changed()

    async def identify(self, authorization: bytes | None, network: str | None) -> Operator | None:
        """
        Return the operator whose password or token is in a header; None if it is missing or wrong.

        :param network: the network that the request comes from, as `find_network` returns it.
        :raises TooManyAttempts: if too many passwords are waiting to be checked.
        """
        found = await self._find(authorization, network)
        if found is None and authorization is not None:
            # The name is not logged, because people type their passwords there by mistake.
            self._wrong.say(
                f"Somebody at {network or 'this machine'} gave a wrong password or token to the "
                "page of the fleet."
            )
        return found

    async def _find(self, authorization: bytes | None, network: str | None) -> Operator | None:
        # This reads the file again if it has changed, and updates the tokens.
        operators = self._file.operators()
        token = _read_token(authorization)
        if token is not None:
            return self._by_token.get(TokenHash.of(token).digest)
        given = read_credentials(authorization)
        return None if given is None else await self._find_person(operators, given, network)

    async def _find_person(
        self, operators: Mapping[str, Operator], given: Credentials, network: str | None
    ) -> Operator | None:
        found = operators.get(given.user)
        is_person = found is not None and isinstance(found.secret, PasswordHash)
        hashed = found.secret if found and isinstance(found.secret, PasswordHash) else self._nobody
        matches = await self._check.matches(given.password, hashed, (network, network))
        # The file may have changed in the meantime.
        is_current = self._file.operators().get(given.user) == found
        return found if matches and is_person and is_current else None

    def _operators_changed(self) -> None:
        operators = self._file.operators().values()
        self._by_token = {
            each.secret.digest: each for each in operators if isinstance(each.secret, TokenHash)
        }
        self._check.forget_others(
            {each.secret for each in operators if isinstance(each.secret, PasswordHash)}
        )


def _read_token(authorization: bytes | None) -> str | None:
    """Read a bearer token (RFC 6750); None if the header has none."""
    scheme, _, value = (authorization or b"").partition(b" ")
    token = value.strip().decode("latin-1")
    return token if scheme.lower() == b"bearer" and 0 < len(token) <= _MAX_TOKEN else None
