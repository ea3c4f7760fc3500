"""What a group of commands stages and does not write: the answer whose place a later attempt of its group has taken.

Such an answer is committed with the group and sent, as it would be if each command had a transaction of its own; but no
row ever held it. The product's staged rows are watched here, so that oracles know it by what was staged, by which
transaction was committed, and by the row that it left behind; not by its having been sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segue.outbox.fences import SqlServiceRows
from segue.outbox.group import StagedRows
from segue.outbox.message import unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """An answer as it was put into a fence row that is still to be written."""

    key: str
    #: `invoke` or `compensate`.
    action: str
    attempt: int
    command: str
    outcome: str
    #: The id of the reply.
    reply: str


class WatchedRows(StagedRows):
    """The product's, which tells the transaction below what is staged in it."""

    def update_inbox_row(self, consumer: str, saga_key: str, values: Mapping[str, Any]) -> None:
        super().update_inbox_row(consumer, saga_key, values)
        for action, attempt in (("invoke", "attempt"), ("compensate", "compensate_attempt")):
            if values.get(f"{action}_reply") is not None:
                answer = Staged(
                    key=saga_key,
                    action=action,
                    attempt=values[attempt],
                    command=values[f"{action}_id"],
                    outcome=values[f"{action}_outcome"],
                    reply=unpack(values[f"{action}_reply"]).id,
                )
                _answers_of(self._rows).append(answer)


def _answers_of(rows: Any) -> list[Staged]:
    """The list that ends with the transaction of these rows."""
    if not isinstance(rows, SqlServiceRows):
        return rows.answers  # type: ignore[no-any-return]
    link: Any = rows._connection.connection.driver_connection
    link.intent = link.intent or []
    return link.intent  # type: ignore[no-any-return]


def superseded(answers: Sequence[Staged], rows: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    """The ids of the staged replies that a transaction has committed without writing them; `rows` is what it wrote.

    Of each command the last one staged, if its row has gone on to a later attempt. One that says `success` counts only
    where its row says so, too: effects that were rolled back leave none that does.
    """
    for answer in {answer.command: answer for answer in answers}.values():
        row = rows.get(answer.key)
        if row is None:
            continue
        later = row["attempt" if answer.action == "invoke" else "compensate_attempt"] > answer.attempt
        if later and (answer.outcome != "success" or row[f"{answer.action}_outcome"] == "success"):
            yield answer.reply
