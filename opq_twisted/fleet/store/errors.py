"""The errors of a database that cannot be used."""

from sqlalchemy.exc import SQLAlchemyError

from opq_twisted.common.errors import OpqError


class StoreUnavailable(OpqError):
    """The database cannot be used now. Whether the change was made is not known."""


class WrongDatabase(OpqError):
    """The tables of the database are not those of this program."""


def describe(error: SQLAlchemyError) -> str:
    """Return the sentence for an error of a database."""
    text = str(getattr(error, "orig", None) or error).strip()
    reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return f"The database of the fleet cannot be used: {reason}."
