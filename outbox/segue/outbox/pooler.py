"""A connection pooler between us and PostgreSQL: in transaction mode each transaction gets whichever session is free.

Whatever belongs to a session is lost there, or somebody else's: prepared statements, `set_config(…, false)`. A pooler
is known by the key that it gives to cancel statements with: it is its own, and not the one of any session.
"""

from __future__ import annotations

from typing import Any

#: Looks at two connections, before they are believed to have sessions of their own.
_LOOKS = 5
_PID = "SELECT pg_backend_pid()"


def is_pooled(driver: Any, pid: int) -> bool:
    """Whether a pooler is between this connection of psycopg and its session, whose process has this `pid`."""
    return bool(driver.pgconn.backend_pid != pid)


def ask_pid(dbapi_connection: Any) -> int:
    """The process of the session that a DB-API connection has now; leaves it in no transaction."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(_PID)
        return int(cursor.fetchone()[0])
    finally:
        cursor.close()
        dbapi_connection.rollback()


def shares_sessions(connection: Any) -> bool:
    """Whether this connection of psycopg, in autocommit, has its session for one transaction only.

    In session mode a pooler never gives one session to two connections. That they share one is proof; a pooler so busy
    that they never do is not found out.
    """
    import psycopg  # an extra of the distribution

    pid = connection.execute(_PID).fetchone()[0]
    if not is_pooled(connection, pid):
        return False
    password = connection.info.password or None
    with psycopg.connect(connection.info.dsn, password=password, autocommit=True, prepare_threshold=None) as other:
        for _ in range(_LOOKS):
            if other.execute(_PID).fetchone() == connection.execute(_PID).fetchone():
                return True
    return False
