"""What the sagas' code is told, and what becomes of the steps that it is told of."""

from __future__ import annotations

from collections.abc import Sequence

from segue.saga import events as e
from segue.testing.told import Told, disagreements
from tests.simulation.oracles import Oracle, Oracles
from tests.simulation.shadow import SagaSeen


class TOLD(Oracle):
    """What the code was told of a step, and what became of the step, agree at every commit."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.sagas: dict[str, Told] = {}

    def transition(self, saga: SagaSeen, events: Sequence[e.AnyEvent], at: int) -> None:
        told = self.sagas.get(saga.id)
        if told is None:
            told = self.sagas[saga.id] = Told(saga.id)
        told.transition(events, at)
        for disagreement in disagreements(told):
            self.fail(f"{saga.id}: {disagreement}")
        if any(isinstance(event, e.StepSucceeded) and event.then == "recorded" for event in events):
            self.all.system.world.points["late_recorded"] += 1
