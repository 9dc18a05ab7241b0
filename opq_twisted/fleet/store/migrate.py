"""Makes or migrates the tables of the database."""

from enum import Enum
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from opq_twisted.fleet.store.engine import WRITES, make_engine, sqlite_file
from opq_twisted.fleet.store.errors import StoreUnavailable, WrongDatabase, describe
from opq_twisted.fleet.store.schema import VERSION_TABLE

#: The key of an advisory lock of PostgreSQL, which is separate for each database.
_LOCK = 0x6F7071


class Tables(Enum):
    """The tables of a database."""

    #: None.
    NONE = "none"
    #: The tables of an older program.
    OLDER = "older"
    CURRENT = "current"


def find_tables(connection: Connection) -> Tables:
    """
    Find out which program the tables are from.

    :raises WrongDatabase: if they are those of a newer program, or of another one.
    """
    if VERSION_TABLE not in (names := inspect(connection).get_table_names()):
        if names:
            raise WrongDatabase(
                "The database of the fleet has the tables of another program. "
                "Give --fleet-db a database of its own."
            )
        return Tables.NONE
    options = {"version_table": VERSION_TABLE}
    revision = MigrationContext.configure(connection, opts=options).get_current_revision()
    if revision is None:
        return Tables.NONE
    script = _migrations()
    try:
        script.get_revision(revision)
    except CommandError:
        raise WrongDatabase(
            f"The database of the fleet was made by a newer program (migration {revision[:32]}). "
            "Install that program again, or restore a backup from before."
        ) from None
    return Tables.CURRENT if revision == script.get_current_head() else Tables.OLDER


def upgrade(engine: Engine, *, may_be_empty: bool = True) -> bool:
    """
    Make or migrate the tables in one transaction; return whether there was anything to do.

    If several processes do this at once, they wait for each other.

    :param may_be_empty: whether the tables are made if there are none.
    :raises WrongDatabase: as `find_tables`, or if the database is empty and must not be.
    """
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            # A migration may take longer than other transactions.
            for setting in ("statement_timeout", "lock_timeout"):
                connection.execute(text(f"SET LOCAL {setting} = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = find_tables(connection)
        if found is Tables.CURRENT:
            return False
        if found is Tables.NONE and not may_be_empty:
            raise WrongDatabase(
                "The database of the fleet has lost its tables. Restore a backup, or restart the "
                "server to begin with an empty one."
            )
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return True


def migrate_database(url: str) -> bool:
    """
    Make or migrate the database of a URL; return whether there was anything to do.

    :raises OpqError: if that is not possible; CannotStart if the URL is not one of a database.
    """
    file = sqlite_file(url)
    if file is not None:
        file.make()
    engine = make_engine(url, limits=False)
    try:
        return upgrade(engine)
    except SQLAlchemyError as error:
        raise StoreUnavailable(describe(error)) from None
    finally:
        engine.dispose()


@cache
def _migrations() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return config
