"""Addresses of other tools' databases: what may be opened, without making or changing anything."""

from __future__ import annotations

import os.path

import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from search_spaces.errors import UserError, one_line


def without_password(address: str) -> str:
    """An address as it may be shown and stored."""
    try:
        return make_url(address).render_as_string(hide_password=True)
    except ArgumentError:  # a path
        return one_line(address)


def check_database(address: str, table: str, what: str) -> None:
    """Looks whether a database is there and holds a table; a tool would make what it does not find.

    Args:
        address: a SQLAlchemy URL.
        table: one that only a database of this kind has.
        what: the kind, for messages: "an MLflow store".

    Raises:
        UserError: it is not one, or does not answer.
    """
    shown = without_password(address)
    try:
        url = make_url(address)
        _check_sqlite_file(url, shown)
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        found = sqlalchemy.inspect(engine).has_table(table)
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(one_line(f"{shown}: must be the address of {what}") + "; write sqlite:///runs.db") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{shown}: needs the Python package {error.name}; install it") from error
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise UserError(one_line(f"{shown}: does not open ({cause})") + "; correct the address") from error
    if not found:
        raise UserError(f"{shown}: must be {what}, got a database without the table {table}; give another address")


def _check_sqlite_file(url: URL, shown: str) -> None:
    """SQLite makes an empty file where there is none."""
    if url.get_backend_name() == "sqlite" and not os.path.isfile(url.database or ""):
        raise UserError(
            f"{shown}: no such file; give sqlite:/// and its path (a fourth slash where the path begins with one)"
        )
