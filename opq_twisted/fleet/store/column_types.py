"""The types of columns: a STRICT table of SQLite knows INTEGER, REAL, TEXT and BLOB only."""

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Dialect,
    Double,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

Number: TypeEngine[int] = BigInteger().with_variant(Integer, "sqlite")
Time: TypeEngine[float] = Double().with_variant(REAL, "sqlite")


def text(length: int) -> TypeEngine[str]:
    """Return the type of a text; only PostgreSQL refuses longer ones."""
    return String(length).with_variant(Text(), "sqlite")


class Flag(Boolean):
    """Is a number in SQLite."""


class Hexadecimal(TypeDecorator[str]):
    """Is a text of hexadecimal digits, and needs half the room in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """Convert the digits for the database."""
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """Convert the bytes that the database has."""
        return None if value is None else bytes(value).hex()


@compiles(Flag, "sqlite")
def _in_sqlite(_type: Flag, _compiler: Any, **_: Any) -> str:
    return "INTEGER"
