"""The judge of the chaos runs can find something: each rule is broken once, in the databases or in the history."""

from __future__ import annotations

import base64
from pathlib import Path
from random import Random

import pytest

from segue.topics.broker import Record
from tests.chaos.checker import Story, judge, percentile, recoveries, sagas
from tests.chaos.damage import DAMAGES, digest
from tests.chaos.faults import KINDS
from tests.chaos.healthy import Run, play
from tests.chaos.history import History, read
from tests.chaos.vacuity import ENDINGS, vacuous


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return play(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def run(healthy: Run, tmp_path: Path) -> Run:
    return healthy.copy(tmp_path / "run")


def rules(run: Run) -> set[str]:
    """The rules that are broken, without what stands behind their colon."""
    return {violation.rule for violation in judge(run.lines, run.databases)}


def test_a_healthy_run_breaks_no_rule_and_ends_in_every_way(run: Run) -> None:
    assert judge(run.lines, run.databases) == []
    assert {row.status for row in sagas(run.databases["coordinator"]).values()} == set(ENDINGS)


def test_a_lost_saga_is_seen(run: Run) -> None:
    lost = run.saga("completed")
    run.sql("coordinator", f"DELETE FROM saga WHERE id = '{lost}'")
    run.sql("coordinator", f"DELETE FROM saga_event WHERE saga_id = '{lost}'")
    assert "an acknowledged start has a saga" in rules(run)


def test_a_saga_that_nobody_asked_for_is_seen(run: Run) -> None:
    forged = run.saga("completed")
    run.lines = [line for line in run.lines if line.get("saga") != forged]
    assert "nobody starts a saga that was not asked for" in rules(run)


def test_a_start_that_was_not_acknowledged_may_be_lost(run: Run) -> None:
    lost = run.saga("failed")
    run.sql("coordinator", f"DELETE FROM saga WHERE id = '{lost}'")
    run.sql("coordinator", f"DELETE FROM saga_event WHERE saga_id = '{lost}'")
    run.lines = [line for line in run.lines if (line.get("saga"), line.get("phase")) != (lost, "acknowledged")]
    assert rules(run) == set()


def test_a_saga_that_waits_for_ever_is_seen(run: Run) -> None:
    stuck = run.saga("completed")
    run.sql("coordinator", f"UPDATE saga SET status = 'running', ended_at = NULL WHERE id = '{stuck}'")
    assert {"no saga waits for ever", "segue verify: fold", "segue verify: lost"} <= rules(run)


def test_a_saga_that_waits_for_a_person_is_seen(run: Run) -> None:
    run.sql("coordinator", f"UPDATE saga SET attention = 'deferred' WHERE id = '{run.saga('compensated')}'")
    assert "no saga waits for ever" in rules(run)


def test_another_end_than_the_one_that_it_must_have_is_seen(run: Run) -> None:
    run.sql("coordinator", f"UPDATE saga SET status = 'completed' WHERE id = '{run.saga('compensated')}'")
    assert {"must be compensated", "money follows the saga", "segue verify: fold"} <= rules(run)


def test_a_double_booking_is_seen(run: Run) -> None:
    twice = run.saga("completed")
    columns = "transfer_id, account_id, amount, kind"
    for bank in ("bank_a", "bank_b", "bank_c"):
        run.sql(bank, f"INSERT INTO movement ({columns}) SELECT {columns} FROM movement WHERE transfer_id = '{twice}'")
    assert {"nothing is done twice", "balances are what was moved", "money follows the saga"} <= rules(run)


def test_lost_money_is_seen(run: Run) -> None:
    run.sql("bank_a", "UPDATE account SET balance = balance - 1 WHERE id = 'bank_a-01'")
    assert {"the sum is conserved", "balances are what was moved"} <= rules(run)


def test_a_compensation_that_was_acknowledged_but_never_booked_is_seen(run: Run) -> None:
    undone = run.saga("compensated")
    for bank in ("bank_a", "bank_b", "bank_c"):
        run.sql(bank, f"UPDATE hold SET state = 'open' WHERE transfer_id = '{undone}'")
        run.sql(bank, f"DELETE FROM movement WHERE transfer_id = '{undone}' AND kind = 'release'")
    assert {"no hold stays open", "the sum is conserved"} <= rules(run)


def test_a_completed_transfer_that_moved_nothing_is_seen(run: Run) -> None:
    empty = run.saga("completed")
    for bank in ("bank_a", "bank_b", "bank_c"):
        run.sql(bank, f"DELETE FROM hold WHERE transfer_id = '{empty}'")
        run.sql(
            bank,
            "UPDATE account SET balance = balance - coalesce((SELECT sum(amount) FROM movement "
            f"WHERE account_id = account.id AND transfer_id = '{empty}'), 0)",
        )
        run.sql(bank, f"DELETE FROM movement WHERE transfer_id = '{empty}'")
    assert rules(run) == {"money follows the saga"}


@pytest.mark.parametrize("database", ["coordinator", "bank_b", "driver"])
def test_a_message_left_in_an_outbox_is_seen(run: Run, database: str) -> None:
    run.sql(
        database,
        "INSERT INTO outbox (id, lane, aggregatetype, aggregateid, type, content_type, created_at) "
        "VALUES ('00000000000000000000000000000001', 0, 't', 'k', 'x', 'application/json', '2026-01-01 00:00:00')",
    )
    assert "outboxes are empty" in rules(run)


def test_a_batch_of_messages_left_by_a_coordinator_is_seen(run: Run) -> None:
    run.sql(
        "coordinator",
        "INSERT INTO outbox_batch (created_at, size, sagas, messages) VALUES (CURRENT_TIMESTAMP, 1, '[]', x'00')",
    )
    assert rules(run) == {"outboxes are empty"}


@pytest.mark.parametrize("status", ["running", None])
def test_an_answer_that_nobody_heard_is_seen(run: Run, status: str | None) -> None:
    asked = run.saga("completed") if status else "nobody"
    run.sql("coordinator", f"UPDATE saga SET status = '{status}' WHERE id = '{asked}'")
    run.sql(
        "bank_a",
        "INSERT INTO inbox (consumer, saga_key, attempt, compensate_attempt, tombstone, created_at, updated_at)"
        f" VALUES ('bank_a', 'chaos/{asked}/bank_a.hold', 1, 0, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    )
    assert "an answer is heard" in rules(run)


def test_an_answer_to_a_saga_that_has_ended_was_heard(run: Run) -> None:
    run.sql(
        "bank_a",
        "INSERT INTO inbox (consumer, saga_key, attempt, compensate_attempt, tombstone, created_at, updated_at)"
        f" VALUES ('bank_a', 'chaos/{run.saga('failed')}/bank_a.hold', 1, 0, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    )
    assert rules(run) == set()


def letter(run: Run, state: str, value: str, headers: str = '[["h", "AQ=="]]') -> str:
    columns = {
        "state": f"'{state}'",
        "topic": "'test.replies'",
        "partition": "0",
        '"offset"': "7",
        "topic_id": "''",
        "key": "CAST('k' AS BLOB)",
        "value": f"CAST('{value}' AS BLOB)",
        "headers": f"CAST('{headers}' AS BLOB)",
        "timestamp_ms": "0",
        "reason": "'undecodable'",
        "error_class": "''",
        "error_message": "''",
        "fingerprint": "''",
        "attempts": "1",
        "replays": "0",
        "created_at": "'2026-01-01 00:00:00'",
        "updated_at": "'2026-01-01 00:00:00'",
    }
    run.sql("coordinator", f"INSERT INTO dead_letter ({','.join(columns)}) VALUES ({','.join(columns.values())})")
    return digest(b"k", value.encode(), (("h", b"\x01"),))


def test_a_dead_letter_is_allowed_for_a_record_that_was_damaged_and_for_no_other(run: Run) -> None:
    name = letter(run, "dead", "damaged")
    assert rules(run) == {"only damaged records die"}
    run.lines.append({"what": "damaged", "at": 0.0, "digest": name})
    assert rules(run) == set()


def test_an_answer_to_a_forged_command_is_allowed_to_die_and_no_other_one(run: Run) -> None:
    cause = base64.b64encode(b"forged-1").decode()
    letter(run, "dead", "{}", f'[["ce_causationid", "{cause}"]]')
    assert rules(run) == set()
    run.sql("coordinator", """UPDATE dead_letter SET headers = CAST('[["ce_causationid", "AQ=="]]' AS BLOB)""")
    assert rules(run) == {"only damaged records die"}


def test_a_damaged_record_that_still_waits_is_seen(run: Run) -> None:
    run.lines.append({"what": "damaged", "at": 0.0, "digest": letter(run, "received", "waits")})
    assert rules(run) == {"no record waits for ever"}


def test_a_dead_letter_of_a_service_is_judged_by_the_same_rule(run: Run) -> None:
    run.lines.append({"what": "dead_letter", "at": 0.0, "topic": "bank_a.dlq", "digest": "good", "reason": "poison"})
    assert rules(run) == {"only damaged records die"}
    run.lines.append({"what": "damaged", "at": 0.0, "digest": "good"})
    assert rules(run) == set()


@pytest.mark.parametrize(("group", "committed"), [(None, 0), ("bank_a", 6), ("bank_a", 8)])
def test_an_offset_that_is_not_the_end_is_seen(run: Run, group: str | None, committed: int) -> None:
    run.lines.append(
        {"what": "offsets", "at": 0.0, "group": group, "topic": "t", "partition": 0, "end": 7, "committed": committed}
    )
    assert rules(run) == {"everything is read"}


def test_a_process_that_was_asked_to_end_and_did_not_is_seen(run: Run) -> None:
    run.lines.append({"what": "hangs", "at": 0.0, "process": "coordinator-1"})
    assert rules(run) == {"who is asked to end ends"}


def exit_of(run: Run, code: int, *, what: str = "exit", lived: float = 5.0) -> None:
    common = {"process": "coordinator-1"}
    run.lines += [
        {**common, "what": "started", "at": 100.0 - lived},
        {**common, "what": what, "at": 100.0, "code": code, "said": "why"},
        {**common, "what": "started", "at": 101.0},
    ]


@pytest.mark.parametrize("code", [1, -11])
def test_a_process_that_died_of_an_exception_or_a_signal_is_seen(run: Run, code: int) -> None:
    strike(run, "broker_kill", 99.0, "it ran")
    exit_of(run, code)
    assert rules(run) == {"no process dies"}


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_process_that_ended_unasked_while_all_was_well_is_seen(run: Run, code: int) -> None:
    strike(run, "freeze_coordinator", 99.0, "it was stopped")
    exit_of(run, code)
    assert rules(run) == {"nobody ends unasked"}


@pytest.mark.parametrize("kind", ["broker_restart", "postgres_kill", "black_hole"])
def test_a_process_that_can_not_start_while_a_server_is_down_may_end(run: Run, kind: str) -> None:
    strike(run, kind, 99.5, "it ran", number=1)
    strike(run, kind, 500.0, "it ran", number=2)
    exit_of(run, 3)
    assert rules(run) == set()


@pytest.mark.parametrize("at", [50.0, 100.5])
def test_a_server_that_is_down_before_or_after_it_explains_no_end(run: Run, at: float) -> None:
    strike(run, "broker_restart", at, "it ran")
    exit_of(run, 3)
    assert rules(run) == {"nobody ends unasked"}


@pytest.mark.parametrize("code", [2, 3])
def test_a_process_that_has_started_and_ends_over_a_server_that_is_down_is_seen(run: Run, code: int) -> None:
    strike(run, "broker_restart", 99.0, "it ran")
    exit_of(run, code, lived=90.0)
    assert rules(run) == {"nobody ends unasked"}


@pytest.mark.parametrize(("code", "well"), [(0, True), (-15, True), (1, False), (3, False)])
def test_how_a_process_ended_that_was_asked_to_is_judged(run: Run, code: int, *, well: bool) -> None:
    exit_of(run, code, what="ended")
    assert rules(run) == (set() if well else {"who is asked to end ends well"})


def test_a_run_without_faults_proves_nothing(run: Run) -> None:
    found = vacuous(Story(run.lines), sagas(run.databases["coordinator"]))
    assert {one.subject for one in found if one.rule == "every kind of fault strikes"} == set(KINDS)


def strike(run: Run, kind: str, at: float, shown: str | None, number: int = 1) -> None:
    common = {"what": "fault", "number": number, "kind": kind, "target": "x"}
    run.lines += [{**common, "at": at, "phase": "begin"}, {**common, "at": at + 1, "phase": "end", "shown": shown}]


def test_a_fault_that_showed_nowhere_does_not_count(run: Run) -> None:
    for kind in KINDS:
        strike(run, kind, 0.0, None if kind == "disk_full" else "it did")
    found = vacuous(Story(run.lines), sagas(run.databases["coordinator"]))
    assert [one.subject for one in found if one.rule == "every kind of fault strikes"] == ["disk_full"]


@pytest.mark.parametrize(("idle", "busy", "proves"), [(1, 0, False), (0, 1, True), (3, 1, True), (4, 1, False)])
def test_kills_that_nearly_all_met_no_saga_in_flight_prove_nothing(
    run: Run, idle: int, busy: int, *, proves: bool
) -> None:
    rows = sagas(run.databases["coordinator"])
    began = max(row.started_at.timestamp() for row in rows.values())
    for number, at in enumerate([0.0] * idle + [began] * busy):
        strike(run, "kill_worker", at, "it was alive", number)
    rule = "sagas are in flight when something is killed"
    assert (rule not in {one.rule for one in vacuous(Story(run.lines), rows)}) is proves


def test_a_run_in_which_nothing_was_compensated_proves_nothing(run: Run) -> None:
    rows = {name: row for name, row in sagas(run.databases["coordinator"]).items() if row.status != "compensated"}
    assert [one.subject for one in vacuous(Story(run.lines), rows) if one.rule == "sagas end in every way"] == [
        "compensated"
    ]


def test_recovery_is_the_time_from_the_end_of_a_fault_to_the_next_transition_and_from_a_kill_itself(run: Run) -> None:
    first = min(row.started_at.timestamp() for row in sagas(run.databases["coordinator"]).values())
    strike(run, "broker_restart", first - 4.0, "it ran")  # it ends three seconds before
    strike(run, "kill_worker", first - 2.0, "it was alive")
    assert recoveries(Story(run.lines), run.databases["coordinator"]) == pytest.approx([3.0, 2.0], abs=0.01)


def test_a_fault_that_ends_while_a_server_is_down_is_over_when_the_server_is_back(run: Run) -> None:
    first = min(row.started_at.timestamp() for row in sagas(run.databases["coordinator"]).values())
    strike(run, "postgres_kill", first - 2.0, "it ran", number=1)
    strike(run, "freeze_worker", first - 2.5, "it was stopped", number=2)
    assert recoveries(Story(run.lines), run.databases["coordinator"]) == pytest.approx([1.0, 1.0], abs=0.01)


def test_after_a_fault_nothing_may_move_any_more_and_that_is_no_recovery(run: Run) -> None:
    last = max(row.started_at.timestamp() for row in sagas(run.databases["coordinator"]).values())
    strike(run, "broker_restart", last + 1000.0, "it ran")
    assert recoveries(Story(run.lines), run.databases["coordinator"]) == [float("inf")]


def test_the_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([5.0], 0.5) == 5.0


def test_a_line_that_was_being_written_when_its_process_was_killed_is_left_out(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.write("start", saga="a")
    history.close()
    with history.path.open("a") as file:
        file.write('{"at": 1.0, "wh')
    assert [line["saga"] for line in read(history.path)] == ["a"]


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_every_damaged_copy_keeps_its_partition_and_can_be_told_from_its_original(damage: str) -> None:
    headers = (("ce_id", b"1"), ("ce_type", b"t"), ("ce_specversion", b"1.0"), ("ce_causationid", b"c"))
    record = Record(topic="t", partition=0, offset=0, key=b"k", value=b'{"amount": 100}', headers=headers)
    copy = DAMAGES[damage](record, Random(1))
    assert (copy.topic, copy.key) == ("t", b"k")
    assert digest(copy.key, copy.value, copy.headers) != digest(record.key, record.value, record.headers)
