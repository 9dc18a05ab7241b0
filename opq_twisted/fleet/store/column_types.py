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
#: The largest number that PostgreSQL stores in 32 bits.
LARGEST_SMALL = 2**31 - 1

Time: TypeEngine[float] = Double().with_variant(REAL, "sqlite")


def text(length: int) -> TypeEngine[str]:
    """Return the type of a text of at most `length` characters, which only PostgreSQL enforces."""
    return String(length).with_variant(Text(), "sqlite")


class SmallNumber(TypeDecorator[int]):
    """A number of 32 bits in PostgreSQL; a larger one is stored as the largest possible one."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """Limit the number, which a box may have chosen."""
        return None if value is None else min(value, LARGEST_SMALL)


class Flag(Boolean):
    """True or False, which is a number in SQLite."""


class Hexadecimal(TypeDecorator[str]):
    """A text of hexadecimal digits, stored as bytes, which need half the space."""

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
