"""Rules of transactions in few round trips, each broken once, and the test that has to see it.

The simulation does not run this code: it has no PostgreSQL. So these are its mutants, on the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy.exc import DBAPIError

from segue.coordinator import session as coordinator
from segue.coordinator import statements
from segue.coordinator.sql_batch import SqlBatch
from segue.errors import StoreUnavailable
from segue.outbox import pipeline, trips
from segue.outbox.pipeline import Answer, Pipeline
from tests.conformance import test_pipeline, test_store_faults, test_store_races, test_store_writes, test_trips
from tests.conformance.store_kit import saga

OVERTAKEN = test_store_writes.test_who_was_overtaken_writes_nothing_at_all_and_may_go_on
UPDATED: Mapping[str, Any] = {"changes": {"updated": [saga(revision=7)]}}
STARTED: Mapping[str, Any] = {"changes": {"started": [saga()]}}


@dataclass(frozen=True, slots=True)
class Variant:
    """A rule, how to break it, the test that sees it, and what that is called with besides its fixtures."""

    breaks: str
    apply: Callable[[pytest.MonkeyPatch], None]
    seen_by: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)


VARIANTS: dict[str, Variant] = {}
Apply = Callable[[pytest.MonkeyPatch], None]


def seen_by(test: Callable[..., None], **arguments: Any) -> Callable[[Apply], Apply]:
    """Register the function below, whose first line says what it breaks."""

    def register(apply: Apply) -> Apply:
        name = apply.__name__
        while name in VARIANTS:
            name += "_too"
        VARIANTS[name] = Variant(apply.__doc__ or "", apply, test, arguments)
        return apply

    return register


def sent(patch: pytest.MonkeyPatch, change: Callable[[list[Any]], list[Any]]) -> None:
    """What goes to the server in one trip is changed."""
    run = Pipeline.run
    patch.setattr(Pipeline, "run", lambda self, calls: run(self, change(list(calls))))


# --- what goes with BEGIN and with COMMIT


@seen_by(test_trips.test_a_write_that_fails_takes_the_whole_transaction_back)
@seen_by(OVERTAKEN, **UPDATED)
def commit_first(patch: pytest.MonkeyPatch) -> None:
    """COMMIT is sent before what goes with it."""
    sent(patch, lambda calls: sorted(calls, key=lambda call: call[0] != "COMMIT"))


@seen_by(test_trips.test_what_is_asked_first_is_in_the_transaction_already)
@seen_by(OVERTAKEN, **UPDATED)
def no_begin(patch: pytest.MonkeyPatch) -> None:
    """The first statement is sent without BEGIN."""
    sent(patch, lambda calls: [("SELECT 1" if text == "BEGIN" else text, values) for text, values in calls])


@seen_by(test_trips.test_a_lone_command_takes_two_round_trips)
@seen_by(test_store_writes.test_a_transition_takes_two_round_trips_to_postgresql)
def commit_apart(patch: pytest.MonkeyPatch) -> None:
    """COMMIT takes a round trip of its own."""
    run = Pipeline.run

    def apart(self: Pipeline, calls: Sequence[Any]) -> list[Answer]:
        if len(calls) > 1 and calls[-1][0] == "COMMIT":
            return [*self.run(calls[:-1]), *self.run(calls[-1:])]
        return run(self, calls)

    patch.setattr(Pipeline, "run", apart)


@seen_by(test_trips.test_a_question_sees_what_was_put_off_before_it)
def asked_before(patch: pytest.MonkeyPatch) -> None:
    """A question overtakes what was put off before it."""

    def ask(connection: Any, text: str, values: Any) -> Any:
        calls = trips._taken(connection)
        found = trips._run(connection, [(trips._numbered(text), values)])[-1].rows()
        if calls:
            trips._run(connection, calls)
        return found

    patch.setattr(trips, "ask", ask)


@seen_by(test_trips.test_what_is_put_off_is_written_in_its_order)
def out_of_order(patch: pytest.MonkeyPatch) -> None:
    """What was put off is written in another order."""
    taken = trips._taken
    patch.setattr(trips, "_taken", lambda connection: taken(connection)[::-1])


@seen_by(test_trips.test_what_was_put_off_is_written_with_the_commit)
def forgotten(patch: pytest.MonkeyPatch) -> None:
    """What was put off is not written."""
    patch.setattr(trips, "_before_commit", lambda connection: None)


@seen_by(test_store_writes.test_a_transition_takes_two_round_trips_to_postgresql)
def forgotten_by_coordinators(patch: pytest.MonkeyPatch) -> None:
    """What a coordinator has put off is not written."""
    patch.setattr(coordinator.Session, "put_off", lambda self, call: None)


@seen_by(test_trips.test_what_a_rolled_back_transaction_has_put_off_is_not_written_by_the_next_one)
def outlives_its_transaction(patch: pytest.MonkeyPatch) -> None:
    """What was put off outlives its transaction."""
    patch.setattr(trips, "_taken", lambda connection: list(connection.info.pop(trips._PUT_OFF, (None, ()))[1]))


@seen_by(test_trips.test_who_wants_another_beginning_or_nothing_prepared_is_left_to_the_driver,
         options={"isolation_level": "SERIALIZABLE"})  # fmt: skip
def always_fit(patch: pytest.MonkeyPatch) -> None:
    """BEGIN says nothing but its name, whatever the engine asks for."""
    patch.setattr(trips, "fit", lambda connection: True)


# --- the last trip fails before COMMIT


@seen_by(test_trips.test_a_write_that_fails_takes_the_whole_transaction_back)
def failure_swallowed(patch: pytest.MonkeyPatch) -> None:
    """What fails before COMMIT is told to nobody; COMMIT rolls back then, and says so to nobody, too."""
    before = trips._before_commit

    def swallow(connection: Any) -> None:
        try:
            before(connection)
        except DBAPIError:
            return

    patch.setattr(trips, "_before_commit", swallow)


@seen_by(test_trips.test_after_a_write_that_failed_the_same_connection_begins_anew)
def left_open(patch: pytest.MonkeyPatch) -> None:
    """Nobody rolls back when the last trip has failed."""
    patch.setattr(trips, "_end", lambda connection: None)


@seen_by(OVERTAKEN, **UPDATED)
def refusal_is_unknown(patch: pytest.MonkeyPatch) -> None:
    """What has failed before COMMIT counts as a COMMIT of which nobody knows."""
    patch.setattr(coordinator, "_OPEN", frozenset())


@seen_by(OVERTAKEN, **UPDATED)
def overtaken_update(patch: pytest.MonkeyPatch) -> None:
    """An update of a saga that another process has moved on does not fail by itself."""
    _count_only(patch, "PG_UPDATE_SAGAS")


@seen_by(OVERTAKEN, **STARTED)
def overtaken_start(patch: pytest.MonkeyPatch) -> None:
    """The start of a saga that is there already does not fail by itself."""
    _count_only(patch, "PG_INSERT_SAGAS")


def _count_only(patch: pytest.MonkeyPatch, name: str) -> None:
    head, _, tail = getattr(statements, name).rpartition("SELECT 1 / (count(*) = ")
    parameter = tail.partition(")")[0]
    patch.setattr(statements, name, f"{head}SELECT count(*) = {parameter} FROM written")


@seen_by(test_store_races.test_of_two_that_move_the_same_offset_one_is_fenced)
def fence_unheard(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at what the fence has answered."""
    patch.setattr(SqlBatch, "_all_moved", lambda *_: None)


# --- nobody knows whether COMMIT happened


@seen_by(test_trips.test_a_commit_whose_answer_is_lost_is_neither_done_nor_refused)
def lost_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """A connection that is lost in the last trip is not thrown away."""
    patch.setattr(trips, "_broken", lambda driver: False)


@seen_by(test_store_faults.test_a_lost_reply_to_commit_is_an_unknown_outcome_and_running_it_again_is_harmless,
         how="commit")  # fmt: skip
def unknown_is_refusal(patch: pytest.MonkeyPatch) -> None:
    """A COMMIT without an answer counts as one that was not run."""
    patch.setattr(coordinator, "_OPEN", frozenset(range(5)))
    patch.setattr(coordinator.Session, "_broken", lambda self: False)


@seen_by(test_store_faults.test_a_lost_reply_to_commit_is_an_unknown_outcome_and_running_it_again_is_harmless,
         how="commit")  # fmt: skip
def unknown_is_done(patch: pytest.MonkeyPatch) -> None:
    """A COMMIT without an answer counts as done."""
    commit = coordinator.Session.commit

    def told(self: coordinator.Session) -> None:
        try:
            commit(self)
        except StoreUnavailable:
            return

    patch.setattr(coordinator.Session, "commit", told)


# --- answers, and what is prepared


@seen_by(test_pipeline.test_each_statement_gets_its_own_answer_also_when_it_is_prepared_already)
def answers_shifted(patch: pytest.MonkeyPatch) -> None:
    """The answer to a preparation counts as the answer to a statement."""

    def answers(self: Any, asked: Sequence[Any], results: Sequence[Any]) -> list[Answer]:
        return [Answer(self._driver, result) for result in results][: sum(text is None for text in asked)]

    patch.setattr(Pipeline, "_answers", answers)


@seen_by(test_pipeline.test_an_error_stops_what_comes_after_it_and_the_statements_work_afterwards)
def last_error(patch: pytest.MonkeyPatch) -> None:
    """The last statement that was not run is blamed, and not the first."""

    def answers(self: Any, asked: Sequence[Any], results: Sequence[Any]) -> list[Answer]:
        bad = [result for result in results if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)]
        if bad:
            raise error_from_result(bad[-1])
        return [Answer(self._driver, result) for text, result in zip(asked, results, strict=True) if text is None]

    patch.setattr(Pipeline, "_answers", answers)


@seen_by(test_pipeline.test_an_error_stops_what_comes_after_it_and_the_statements_work_afterwards)
def prepared_in_vain(patch: pytest.MonkeyPatch) -> None:
    """A statement whose preparation came after the error counts as prepared."""
    old = Pipeline._answers

    def answers(self: Any, asked: Sequence[Any], results: Sequence[Any]) -> list[Answer]:
        names = dict(self._names)
        try:
            return old(self, asked, results)
        finally:
            self._names.update(names)
            self._doubtful.clear()

    patch.setattr(Pipeline, "_answers", answers)


@seen_by(test_trips.test_a_driver_that_drops_all_statements_at_a_rollback_costs_nothing, ending="savepoint")
@seen_by(test_trips.test_a_driver_that_drops_all_statements_at_a_rollback_costs_nothing, ending="transaction")
def trusted_after_a_rollback(patch: pytest.MonkeyPatch) -> None:
    """What was prepared before a rollback counts as prepared after it."""
    patch.setattr(Pipeline, "doubt", lambda self: None)


@seen_by(test_trips.test_a_server_that_forgot_the_statements_costs_one_more_try)
@seen_by(test_trips.test_a_column_that_a_migration_widens_costs_one_more_try)
def outlived(patch: pytest.MonkeyPatch) -> None:
    """A connection whose statements are of no use any more is kept."""
    patch.setattr(trips, "_OUTLIVED", frozenset())


@seen_by(test_pipeline.test_a_text_with_a_nul_is_refused_before_anything_is_sent)
def nul_is_sent(patch: pytest.MonkeyPatch) -> None:
    """A text with a NUL is sent as far as libpq reads it."""
    bound = pipeline._bound

    def cut(values: Sequence[Any]) -> Any:
        return bound([value.partition("\x00")[0] if isinstance(value, str) else value for value in values])

    patch.setattr(pipeline, "_bound", cut)
