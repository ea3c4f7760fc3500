"""What the sagas' code gives to its steps, and that no other build goes on where it gives something else."""

from __future__ import annotations

from collections.abc import Sequence

from segue.saga import events as e
from tests.simulation.oracles import Oracle, Oracles
from tests.simulation.sagas import PRICED
from tests.simulation.shadow import SagaSeen


class INPUTS(Oracle):
    """Code that gives another input to a step than its history has is blocked, and asks for nothing more."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: By saga, run and piece: the input of its first step.
        self.first: dict[tuple[str, int, str], bytes] = {}

    def transition(self, saga: SagaSeen, events: Sequence[e.AnyEvent], at: int) -> None:
        for event in events:
            if isinstance(event, e.StepScheduled) and event.step.startswith(PRICED):
                piece, _, _ = event.step.rpartition(".")
                first = self.first.setdefault((saga.id, saga.run, piece), bytes(event.input))
                if first != bytes(event.input):
                    self.fail(f"{saga.id} goes on with {event.step}, and what its code reckons is not what it was")
            elif isinstance(event, e.Undriven) and any(key[0] == saga.id for key in self.first):
                self.all.system.world.points["input_changed"] += 1
