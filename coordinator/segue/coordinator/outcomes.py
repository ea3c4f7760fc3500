"""What an error of the coordinator's database means: try again, run the batch again, or never again.

The table is `segue.outbox.faults`, which workers use as well; here is what only the coordinator's own statements mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.exc import DBAPIError, DisconnectionError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from segue.coordinator.schema import metadata
from segue.coordinator.store import Unfit
from segue.errors import Fenced, RejectedWrite, SegueError, StoreUnavailable
from segue.outbox.faults import DatabaseFault, fault_of, sqlstate_of

#: SQLSTATEs that say something else in our statements than in anybody's.
_STATES: Mapping[str, type[SegueError]] = {
    "22012": Fenced,  # a division by zero is how our statements say that somebody else was faster
    # A prepared statement gives other columns since a migration; a new connection prepares it anew. Nothing else that
    # is asked here can be "not supported".
    "0A000": StoreUnavailable,
}
_FAULTS: Mapping[DatabaseFault, type[SegueError]] = {
    DatabaseFault.PASSES: StoreUnavailable,
    DatabaseFault.UNFIT: Unfit,
    DatabaseFault.REFUSED: RejectedWrite,
}


def _own_constraints() -> frozenset[str]:
    names: set[str] = set()
    for table in metadata.tables.values():
        names.add(f"{table.name}_pkey")
        names.update(f"{table.name}_{column.name}_key" for column in table.columns if column.unique)
        names.update(str(constraint.name) for constraint in table.constraints if constraint.name)
        names.update(str(index.name) for index in table.indexes if index.name)
    return frozenset(names)


#: Names under which PostgreSQL reports our own keys and unique indexes: their violation means that another was first.
OWN_CONSTRAINTS = _own_constraints()


def outcome_of(error: BaseException) -> SegueError | None:
    """The meaning of a database error; None for what is no such error, or a mistake in our SQL that must be seen."""
    if isinstance(error, PoolTimeout | DisconnectionError):
        return StoreUnavailable(f"no connection to the database: {_text(error)}")
    if isinstance(error, StatementError) and error.orig is not None:
        if isinstance(error, DBAPIError) and error.connection_invalidated and not sqlstate_of(error.orig):
            return StoreUnavailable(f"the connection to the database broke: {_text(error.orig)}")
        return outcome_of(error.orig)
    kind = _kind_of(error)
    return None if kind is None else kind(_sentence(kind, error))


def _kind_of(error: BaseException) -> type[SegueError] | None:
    if isinstance(error, UnicodeEncodeError | OverflowError):
        return RejectedWrite  # the driver could not even encode the value
    if isinstance(error, OSError):
        return StoreUnavailable
    if (state := sqlstate_of(error)) in _STATES:
        return _STATES[str(state)]
    fault = fault_of(error)
    if fault is DatabaseFault.TAKEN:
        constraint = getattr(getattr(error, "diag", None), "constraint_name", None)
        return Fenced if state is None or constraint in OWN_CONSTRAINTS else RejectedWrite
    return None if fault is None else _FAULTS[fault]


def _sentence(kind: type[SegueError], error: BaseException) -> str:
    state = sqlstate_of(error) or getattr(error, "sqlite_errorname", None)
    if state == "22012":
        return "sagas were started or moved on by another process meanwhile"
    where = f" ({state})" if state else ""
    if kind is Unfit:
        return f"the database lacks what Segue needs{where}; run `segue db upgrade`: {_text(error)}"
    return f"{_text(error)}{where}"


def _text(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
