"""Judges whether the release that runs is healthy."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from opq_twisted.archive.name import VERIFY_SCRIPT
from opq_twisted.box.install.units import TransientUnits
from opq_twisted.common.errors import MACHINE_BUSY, InstallFailed

_UNIT = "opq-box-verify"

#: Seconds between two looks.
_PAUSE = 5.0


class _Unhealthy(Exception):
    """The text says what is wrong, as the end of a sentence."""


class Health:
    """Looks at the services that the configuration names, and runs `verify_update.sh`."""

    def __init__(
        self,
        clock: IReactorTime,
        scripts: TransientUnits,
        services: Sequence[str],
        settle: float,
    ) -> None:
        """
        Prepare to judge.

        :param services: the units that have to be active.
        :param settle: seconds for which all of it must hold.
        """
        self._clock = clock
        self._scripts = scripts
        self._services = services
        self._settle = settle

    async def require(self, folder: Path, version: int, deadline: float) -> None:
        """
        Return when the release is healthy, and has been for as long as it must.

        :param folder: where the update was unpacked.
        :param deadline: by the clock: when it must have begun to be healthy.
        :raises InstallFailed: when it was not by then; the text says why.
        :raises OSError: when the machine was too busy to judge; that says nothing of the release.
        """
        while True:
            try:
                return await self._hold(folder, version, deadline)
            except (_Unhealthy, OSError) as error:
                if self._clock.seconds() + _PAUSE > deadline:
                    if isinstance(error, OSError) and error.errno in MACHINE_BUSY:
                        raise
                    raise InstallFailed(f"Release {version} is not healthy: {error}.") from None
            await deferLater(self._clock, _PAUSE)

    async def _hold(self, folder: Path, version: int, deadline: float) -> None:
        runs = await self._look_at_services()
        await self._verify(folder, version, deadline)
        settled = self._clock.seconds() + self._settle
        while (left := settled - self._clock.seconds()) > 0:
            await deferLater(self._clock, min(left, _PAUSE))
            # One that crashes and is started again runs at each look, but never for long.
            if await self._look_at_services() != runs:
                raise _Unhealthy("a service was started again")
        if self._settle:
            await self._verify(folder, version, deadline)

    async def _look_at_services(self) -> Sequence[str]:
        """Make sure that all services are active; gives what tells their runs apart."""
        runs = []
        for service in self._services:
            ended = await self._scripts.systemctl(
                "show", "--property=ActiveState,InvocationID", "--", service
            )
            state = dict(line.partition("=")[::2] for line in ended.output.splitlines())
            if not state.get("ActiveState") and ended.reports_shortage:
                raise OSError(errno.EAGAIN, f"systemctl {ended}")
            if state.get("ActiveState") != "active":
                is_now = state.get("ActiveState") or f"unknown: systemctl {ended}"
                raise _Unhealthy(f"the service {service} is {is_now}")
            runs.append(state.get("InvocationID", ""))
        return runs

    async def _verify(self, folder: Path, version: int, deadline: float) -> None:
        """Run the release's own script, if it has one."""
        if not (folder / VERIFY_SCRIPT).exists():
            return
        left = max(deadline - self._clock.seconds(), _PAUSE)
        script = os.fspath(folder / VERIFY_SCRIPT)
        ended = await self._scripts.run(_UNIT, [script], folder, version, left)
        if ended.status != 0:
            said = ended.last_line
            raise _Unhealthy(f"{VERIFY_SCRIPT} {ended}{said and ': '}{said}")
