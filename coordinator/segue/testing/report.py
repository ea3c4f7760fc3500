"""What an exploration found: outcomes per (step × fault), violations, and which compensations were exercised."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from segue.testing.failures import SagaTestError
from segue.testing.faults import Fault, Plan, key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: what went wrong (`plan`), and what became of the saga and of the services' effects."""

    plan: Plan
    #: Where the saga stood when nothing moved it any more.
    status: str
    attention: str
    error: str
    #: Where it stood after a person had retried with all faults gone; empty where nobody was needed.
    after_retry: str
    attention_after_retry: str
    #: Activities whose effect stands at the end, and compensations that ran, in their order.
    standing: tuple[str, ...]
    compensated: tuple[str, ...]

    @property
    def key(self) -> str:
        """For `explore(only=…)`."""
        return key_of(self.plan)

    @property
    def outcome(self) -> str:
        """`compensated`, or `compensating, deferred → compensated after a person's retry`."""
        text = self.status + (f", {self.attention.replace('_', ' ')}" if self.attention != "none" else "")
        if not self.after_retry:
            return text
        still = (
            f", still {self.attention_after_retry.replace('_', ' ')}" if self.attention_after_retry != "none" else ""
        )
        return f"{text} → {self.after_retry}{still} after a person's retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that must not happen, the plan that makes it happen, and the conversation of that run."""

    rule: str
    message: str
    plan: Plan
    conversation: str

    @property
    def key(self) -> str:
        """For `explore(only=…)`."""
        return key_of(self.plan)

    def __str__(self) -> str:
        faults = "; ".join(str(planned) for planned in self.plan) or "no fault at all"
        return f"[{self.rule}] {self.message}\n  faults: {faults}\n  again with: only={self.key!r}"


@dataclass(slots=True, kw_only=True)
class Undo:
    """How often a compensation was exercised: by what was known of its step (`success`, `unknown`)."""

    activity: str
    ran: Counter[str] = field(default_factory=Counter)
    deferred: int = 0


@dataclass(slots=True, kw_only=True, repr=False)
class Report:
    """What an exploration found. `text()` is for people, `to_json()` for programs."""

    saga: str
    version: int
    budget: int
    runs: int = 0
    #: The one plan that was played again (`explore(only=…)`).
    only: str = ""
    #: Plans that the budget did not reach: single faults (and first faults at steps that only faults lead to), pairs.
    left: tuple[int, int] = (0, 0)
    cases: list[Case] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    #: Compensations that the saga names.
    undos: dict[str, Undo] = field(default_factory=dict)
    #: Activities that can neither be undone nor skipped if their outcome stays unknown: how often that happened.
    may_be_in_doubt: dict[str, int] = field(default_factory=dict)
    #: Activities without a compensation whose effect stood although the saga failed or was undone: how often.
    left_standing: dict[str, int] = field(default_factory=dict)
    #: Lines of the saga's code that may do something else at a replay.
    lint: tuple[str, ...] = ()
    #: Why its histories were not replayed under other hash seeds; empty if they were.
    not_reseeded: str = ""
    #: Signals that the saga has waited for and that `signals` does not have: they never came.
    never_sent: set[str] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"<Report of {self.saga} v{self.version}: {self.runs} runs, {len(self.violations)} violations>"

    @property
    def complete(self) -> bool:
        """Every fault was tried at every step at least once."""
        # Without the run in which nothing goes wrong nobody knows what the steps are.
        return not self.only and self.left[0] == 0 and any(not case.plan for case in self.cases)

    @property
    def never_compensated(self) -> list[str]:
        """Compensations whose handler never ran in any case."""
        return sorted(name for name, undo in self.undos.items() if not undo.ran.total())

    @property
    def coverage(self) -> float:
        """Part of the compensations that ran at least once, 0 to 1; 1 for a saga without any."""
        return 1.0 if not self.undos else 1 - len(self.never_compensated) / len(self.undos)

    def outcomes(self) -> dict[str, dict[Fault, Counter[str]]]:
        """Step → fault → outcomes, from the shortest plans that end with this fault there."""
        shortest: dict[tuple[str, Fault], int] = {}
        table: dict[str, dict[Fault, Counter[str]]] = {}
        for case in self.cases:
            if not case.plan:
                continue
            last = case.plan[-1]
            at = last.point.group, last.fault
            if len(case.plan) > shortest.setdefault(at, len(case.plan)):
                continue
            table.setdefault(at[0], {}).setdefault(at[1], Counter())[case.outcome] += 1
        return table

    def raise_for_violations(self) -> None:
        """Raises SagaTestError with the first violation, its conversation, and the number of others."""
        if not self.violations:
            return
        first, others = self.violations[0], len(self.violations) - 1
        more = f"\n(and {others} more)" if others else ""
        raise SagaTestError(f"{first}\n{first.conversation}{more}")

    def text(self) -> str:
        """The report as plain text."""
        return "\n".join(self._lines())

    def to_json(self) -> str:
        """The report as one JSON object, keys as in the attributes of this class."""
        return json.dumps(self._plain(), ensure_ascii=False)

    def _lines(self) -> Iterator[str]:
        singles, pairs = self.left
        missing = f"; the budget of {self.budget} left out {singles} single faults" if singles else ""
        yield f"{self.saga} v{self.version}: {self.runs} runs, {len(self.violations)} violations{missing}"
        if self.only:
            yield from self._again()
            return
        yield f"every fault at every step: {'yes' if self.complete else 'no'}; pairs of faults left: {pairs}"
        for violation in self.violations:
            yield ""
            yield f"VIOLATION {violation}"
        yield ""
        yield "without a fault"
        yield f"  {self._undisturbed()}"
        crashes: dict[Fault, Counter[str]] = {}
        cancelled: dict[str, Counter[str]] = {}
        for subject, faults in self.outcomes().items():
            if subject == "start" or subject.startswith("after "):
                for fault, counts in faults.items():
                    if fault is Fault.CANCELLED:
                        cancelled[subject] = counts
                    else:
                        crashes.setdefault(fault, Counter()).update(counts)
                continue
            yield subject
            yield from _by_outcome(faults)
        yield "coordinator, at any transition"
        yield from _by_outcome(crashes)
        yield "cancelled by a person"
        yield from _by_outcome(cancelled)
        yield from self._coverage_lines()
        yield from self._warnings()

    def _again(self) -> Iterator[str]:
        """One plan: there is nothing to count."""
        for violation in self.violations:
            yield f"VIOLATION {violation}"
        for case in self.cases:
            yield f"{'; '.join(map(str, case.plan)) or 'without a fault'}"
            yield f"  {case.outcome}{f': {case.error}' if case.error else ''}"
            yield f"  stands: {', '.join(case.standing) or 'nothing'}"
            yield f"  compensated: {', '.join(case.compensated) or 'nothing'}"

    def _undisturbed(self) -> str:
        return next((case.outcome for case in self.cases if not case.plan), "failed")

    def _coverage_lines(self) -> Iterator[str]:
        yield ""
        yield f"compensations exercised: {len(self.undos) - len(self.never_compensated)} of {len(self.undos)}"
        for name, undo in sorted(self.undos.items()):
            ran = ", ".join(
                f"{times} × after {'a success' if after == 'success' else 'an unknown outcome'}"
                for after, times in sorted(undo.ran.items())
            )
            deferred = f", {undo.deferred} × deferred" if undo.deferred else ""
            yield f"  {name} (of {undo.activity}): {ran or 'NEVER'}{deferred}"

    def _warnings(self) -> Iterator[str]:
        for case in self.cases:
            if not case.plan and (case.error or case.attention != "none"):
                yield (
                    f"warning: without a fault the saga is {case.outcome}{f' ({case.error})' if case.error else ''}: "
                    "what comes after that is not explored"
                )
        yield from (f"warning: {line}" for line in self.lint)
        if self.not_reseeded:
            yield f"not replayed under other hash seeds: {self.not_reseeded}"
        for signal in sorted(self.never_sent):
            yield f"warning: the saga waits for the signal {signal}, and signals= does not have it: it never came"
        for activity, times in sorted(self.may_be_in_doubt.items()):
            yield (
                f"warning: {activity} can go in doubt (it did {times} times): it has no compensation and is neither "
                "readonly nor optional, so silence waits for a person"
            )
        for activity, times in sorted(self.left_standing.items()):
            yield f"warning: {activity} has no compensation; it stood in {times} sagas that failed or were undone"

    def _plain(self) -> dict[str, Any]:
        return {
            "saga": self.saga,
            "version": self.version,
            "budget": self.budget,
            "runs": self.runs,
            "complete": self.complete,
            "left": {"singles": self.left[0], "pairs": self.left[1]},
            "violations": [
                {"rule": v.rule, "message": v.message, "key": v.key, "conversation": v.conversation}
                for v in self.violations
            ],
            "only": self.only,
            "not_reseeded": self.not_reseeded,
            "lint": list(self.lint),
            "without_fault": self._undisturbed(),
            "cases": [
                {
                    "key": case.key,
                    "faults": [str(planned) for planned in case.plan],
                    "outcome": case.outcome,
                    "error": case.error,
                    "standing": case.standing,
                    "compensated": case.compensated,
                }
                for case in self.cases
            ],
            "outcomes": {
                subject: {fault.name.lower(): dict(counts) for fault, counts in faults.items()}
                for subject, faults in self.outcomes().items()
            },
            "coverage": self.coverage,
            "never_compensated": self.never_compensated,
            "compensations": {
                name: {"of": undo.activity, "ran": dict(undo.ran), "deferred": undo.deferred}
                for name, undo in self.undos.items()
            },
            "may_be_in_doubt": self.may_be_in_doubt,
            "left_standing": self.left_standing,
            "never_sent": sorted(self.never_sent),
        }


def _by_outcome(outcomes: Mapping[Fault, Counter[str]] | Mapping[str, Counter[str]]) -> Iterator[str]:
    """`  compensated: refused, reply lost once, …`: faults (or places) with the same outcomes on one line."""
    lines: dict[str, list[str]] = {}
    for what, counts in outcomes.items():
        lines.setdefault(" or ".join(counts), []).append(str(what))
    for outcome, names in lines.items():
        yield f"  {outcome}: {'; '.join(names)}"
