"""`opq-fleet migrate`: makes or migrates the tables of a database."""

from opq_twisted.common.errors import OpqError


class PackagesMissing(OpqError):
    """The packages for a database are not installed."""


def migrate(url: str) -> str:
    """
    Make or migrate the database of a URL, and return a sentence about that.

    :raises OpqError: if that is not possible; nothing is changed then.
    """
    try:
        from opq_twisted.fleet.store.migrate import migrate_database
    except ModuleNotFoundError as error:
        raise PackagesMissing(
            f"The package {error.name} is missing: install those of requirements-fleet.lock."
        ) from None
    if migrate_database(url):
        return "The database has the tables of this program now."
    return "The database has the tables of this program already."
