"""Keeps SQLite from using an index where it reads most rows anyway."""

from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class unindexed(FunctionElement[str]):
    """
    A column of text, of which SQLite uses no index.

    SQLite keeps no statistics unless it is told to, and takes an index for nearly all rows of a
    table, one by one. That takes 8 times as long as to read the whole table. See
    https://sqlite.org/optoverview.html#disqualifying_where_clause_terms_using_unary_
    """

    type = String()
    inherit_cache = True


@compiles(unindexed)
def _as_it_is(element: unindexed, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(unindexed, "sqlite")
def _in_sqlite(element: unindexed, compiler: Any, **options: Any) -> str:
    return f"+{_as_it_is(element, compiler, **options)}"
