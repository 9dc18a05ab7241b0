"""Keeps SQLite from using an index where it reads most rows anyway."""

from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class unindexed(FunctionElement[str]):
    """
    A column of text whose index SQLite does not use.

    SQLite has no statistics here, and would use an index to read nearly all rows one by one. That
    takes 8 times as long as reading the whole table. See
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
