"""Checks whether the running release is healthy."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from opq_twisted.archive.name import VERIFY_SCRIPT
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common.errors import MACHINE_BUSY, ServiceUnhealthy, VerifyFailed

_UNIT = "opq-box-verify"

#: Seconds between two checks.
_POLL_INTERVAL = 5.0


class _Unhealthy(Exception):
    """The text is the reason, as the end of a sentence."""


class _NotVerified(_Unhealthy):
    """`verify_update.sh` of the release failed."""


@define
class Health:
    """Checks the services that the configuration names, and runs `verify_update.sh`."""

    _clock: IReactorTime
    _units: TransientUnits
    #: The systemd units that must be active.
    _services: Sequence[str]
    #: Seconds for which the release must stay healthy.
    _settle: float

    async def require(self, folder: Path, version: int, deadline: float) -> None:
        """
        Wait until the release has been healthy for the configured time.

        :param folder: the unpacked update.
        :param deadline: the time by the clock at which the release must be healthy at the latest.
        :raises ServiceUnhealthy: if a service does not run by then; the text gives the reason.
        :raises VerifyFailed: if `verify_update.sh` fails until then.
        :raises OSError: if the machine was too busy to check, which is not the release's fault.
        """
        while True:
            try:
                return await self._check_until_settled(folder, version, deadline)
            except (_Unhealthy, OSError) as error:
                if self._clock.seconds() + _POLL_INTERVAL > deadline:
                    if isinstance(error, OSError) and error.errno in MACHINE_BUSY:
                        raise
                    kind = VerifyFailed if isinstance(error, _NotVerified) else ServiceUnhealthy
                    raise kind(f"Release {version} is not healthy: {error}.") from None
            await deferLater(self._clock, _POLL_INTERVAL)

    async def _check_until_settled(self, folder: Path, version: int, deadline: float) -> None:
        invocations = await self._check_services()
        await self._verify(folder, version, deadline)
        settled = self._clock.seconds() + self._settle
        while (left := settled - self._clock.seconds()) > 0:
            await deferLater(self._clock, min(left, _POLL_INTERVAL))
            # A service that crashes and is restarted is active at each check, but not for long.
            if await self._check_services() != invocations:
                raise _Unhealthy("a service was started again")
        if self._settle:
            await self._verify(folder, version, deadline)

    async def _check_services(self) -> Sequence[str]:
        """Check that all services are active, and return their invocation IDs."""
        invocations = []
        for service in self._services:
            result = await self._units.systemctl(
                "show", "--property=ActiveState,InvocationID", "--", service
            )
            state = dict(line.partition("=")[::2] for line in result.output.splitlines())
            if not state.get("ActiveState") and result.reports_shortage:
                raise OSError(errno.EAGAIN, f"systemctl {result}")
            if state.get("ActiveState") != "active":
                is_now = state.get("ActiveState") or f"unknown: systemctl {result}"
                raise _Unhealthy(f"the service {service} is {is_now}")
            invocations.append(state.get("InvocationID", ""))
        return invocations

    async def _verify(self, folder: Path, version: int, deadline: float) -> None:
        """Run `verify_update.sh` of the release, if it has one."""
        if not (folder / VERIFY_SCRIPT).exists():
            return
        timeout = max(deadline - self._clock.seconds(), _POLL_INTERVAL)
        script = os.fspath(folder / VERIFY_SCRIPT)
        result = await self._units.run(_UNIT, [script], folder, version, timeout)
        if result.status != 0:
            said = result.last_line
            raise _NotVerified(f"{VERIFY_SCRIPT} {result}{said and ': '}{said}")
