"""The queries of the database that `opq-fleet` and the page can make."""

from collections.abc import Callable, Mapping
from functools import partial

from attrs import evolve
from sqlalchemy import ColumnElement, Connection

from opq_twisted.fleet.control.answers import Content, RequestInvalid
from opq_twisted.fleet.control.fields import Fields
from opq_twisted.fleet.control.overview import overview, release_page
from opq_twisted.fleet.engine.judge import Judge
from opq_twisted.fleet.keys.removal import BoxUnknown, matching
from opq_twisted.fleet.queries import pages
from opq_twisted.fleet.queries.census import has_need
from opq_twisted.fleet.rollouts.watch import current_rollouts

#: Reads the database.
Query = Callable[[Connection], Content]

#: Checks the fields of a request, and returns the query.
MakeQuery = Callable[[Fields], Query]

#: Seconds.
_DAY = 86400
#: Days: a century.
_MAX_DAYS = 36525


class Queries:
    """Makes a query from the fields of a request, by the name of the resource."""

    def __init__(
        self, now: Callable[[], float], waiting_now: Callable[[], int], judge: Judge
    ) -> None:
        """
        :param now: gives seconds since the epoch.
        :param waiting_now: counts the boxes that wait at this process for a release.
        """
        self._now = now
        self._waiting_now = waiting_now
        self._judge = judge

    def status(self, _fields: Fields) -> Query:
        """Show the state of the fleet."""
        waiting = self._waiting_now()
        return lambda connection: {
            **overview(connection, self._now(), self._judge),
            "waiting_now": waiting,
        }

    def release(self, fields: Fields) -> Query:
        """Show a release."""
        release = fields.required_number("release")
        return lambda connection: release_page(connection, release, self._now(), self._judge)

    def releases(self, fields: Fields) -> Query:
        """List the rollouts, the last announced first."""
        return _pages("rollouts", fields, "before", pages.list_rollouts)

    def audit(self, fields: Fields) -> Query:
        """List the changes by people and by the engine, the last one first."""
        query = partial(pages.list_changes, release=fields.number("release"))
        return _pages("changes", fields, "before", query)

    def boxes(self, fields: Fields) -> Query:
        """List the keys of boxes that match a filter."""
        days, need = fields.number("not_seen_for", _MAX_DAYS), fields.word("need")
        wanted = pages.BoxFilter(
            channel=fields.word("channel"),
            release=fields.number("release"),
            state=fields.word("state"),
            waiting=fields.word("waiting"),
            not_seen_since=None if days is None else self._now() - days * _DAY,
        )

        def read(connection: Connection, after: int | None, limit: int) -> list[pages.Row]:
            found = evolve(wanted, need=self._need(connection, need))
            return pages.list_boxes(connection, after, limit, wanted=found)

        return _pages("boxes", fields, "after", read)

    def box(self, fields: Fields) -> Query:
        """Show the keys of a box, and its last attempts."""
        name = fields.text("name")
        condition = matching(name)

        def read(connection: Connection) -> Content:
            keys = pages.list_keys(connection, condition)
            if not keys:
                raise BoxUnknown(f"There is no box or key {name}.")
            attempts = pages.list_last_attempts(connection, [each["id"] for each in keys])
            return {"time": self._now(), "keys": keys, "attempts": attempts}

        return read

    def attempts(self, fields: Fields) -> Query:
        """List the attempts of all boxes."""
        after = fields.number("after") or 0, fields.hexadecimal("after_attempt")
        limit = _limit(fields)
        return lambda connection: _page(
            "attempts", pages.list_attempts(connection, after, limit), limit
        )

    def _need(self, connection: Connection, name: str | None) -> ColumnElement[bool] | None:
        if name is None:
            return None
        now, channels = self._now(), {each.channel for each in current_rollouts(connection)}
        silence = self._judge.silence(connection, now, channels)
        try:
            return has_need(name.replace("-", "_"), now, silence)
        except KeyError:
            raise RequestInvalid(f"The field 'need' has an unknown value: {name}.") from None

    def by_path(self) -> Mapping[bytes, MakeQuery]:
        """Return the methods by the names of their resources."""
        return {
            b"status": self.status,
            b"boxes": self.boxes,
            b"box": self.box,
            b"releases": self.releases,
            b"release": self.release,
            b"audit": self.audit,
            b"attempts": self.attempts,
        }


def _pages(
    name: str,
    fields: Fields,
    key: str,
    query: Callable[[Connection, int | None, int], list[pages.Row]],
) -> Query:
    last, limit = fields.number(key), _limit(fields)
    return lambda connection: _page(name, query(connection, last, limit), limit)


def _page(name: str, rows: list[pages.Row], limit: int) -> Content:
    return {name: rows, "more": len(rows) == limit}


def _limit(fields: Fields) -> int:
    return fields.number("limit", pages.PAGE) or pages.PAGE
