"""The schema of PostgreSQL that a URL names (`?options=-csearch_path%3Dsegue`), and connections that must be in it.

A connection pooler may leave out what a client says when it connects. The tables of another schema would be found then,
or none.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import URL, Engine, event

from segue.errors import ConfigError

_CHECKED = "segue.search_path"
_SAID = re.compile(r"\s*(?:-c\s*|--)search_path=((?:\\.|[^\s\\])+)")


def search_path_of(url: URL) -> str:
    """The search path that the URL asks for; empty: it does not say."""
    found = _SAID.findall(_options(url))
    return found[-1].replace("\\", "") if found else ""


def with_search_path(url: URL, path: str) -> URL:
    """The same database, in another schema."""
    others = _SAID.sub("", _options(url)).strip()
    return url.update_query_dict({"options": f"{others} -csearch_path={path}".strip()})


def keep_search_path(engine: Engine) -> Engine:
    """Let no connection be used that is not where the engine's URL says. Its calls raise ConfigError then."""
    path = search_path_of(engine.url)
    if path and engine.dialect.name == "postgresql":
        # At the first checkout: what a listener raises when a connection is made leaves it half open.
        @event.listens_for(engine, "checkout")
        def check(dbapi_connection: Any, record: Any, _: Any) -> None:
            if _CHECKED in record.info:
                return
            if _plain(_ask(dbapi_connection)) != _plain(path):
                raise ConfigError(
                    f"database: the connection to {engine.url.host}:{engine.url.port} is not in schema {path}, which "
                    "its URL or coordinator.schema names: a pooler between leaves that out. Let it say so itself, as "
                    f"PgBouncer does with connect_query='SET search_path TO {path}', or connect to PostgreSQL"
                )
            record.info[_CHECKED] = True

    return engine


def _options(url: URL) -> str:
    given = url.query.get("options", "")
    return given if isinstance(given, str) else " ".join(given)


def _ask(dbapi_connection: Any) -> str:
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute("SELECT current_setting('search_path')")
        return str(cursor.fetchone()[0])
    finally:
        cursor.close()
        dbapi_connection.rollback()


def _plain(path: str) -> list[str]:
    return [name.strip().strip('"') for name in path.split(",")]
