"""What the headers of an answer may decide: its command, its outcome, its effect; nothing else."""

from __future__ import annotations

from segue.topics.envelope import OUTCOMES
from tests.simulation.oracles import Commit, Oracle, header


class Advice(Oracle):
    """An answer to a known command dies of no header that advises; one that nobody understands waits for a person."""

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for letter in changes.dead_letters:
                record = letter.record
                if letter.reason != "invalid_envelope" or not record.topic.endswith(".replies"):
                    continue
                outcome = (header(record.headers, "ce_sagaoutcome") or "success").lower()
                known = self.all.shadow.commands.get(header(record.headers, "ce_causationid") or "")
                if known is None or self.all.system.forged(record):
                    continue
                saga, step, action, _ = known
                if outcome in OUTCOMES:
                    self.fail(f"{outcome} of {step.name} of {saga.id} died: {letter.error_message}")
                is_open = step.status != "succeeded" if action == "invoke" else step.undo not in ("done", "given_up")
                if letter.state == "dead" and is_open and saga.ended is None:
                    self.fail(f"{outcome!r} of {step.name} of {saga.id} is dead, and not kept for its saga")


ADVICE = Advice
