"""What a store keeps of signs of life beside a history, for one saga in memory."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from segue.ids import CommandId
from segue.saga.effects import Effect, ForgetSign, NoteSign
from segue.saga.inputs import Input, Reply, Wake
from segue.saga.signs import LastSign
from segue.saga.state import SagaState


class KeptSigns:
    """The last sign of life of each command that has given several."""

    def __init__(self) -> None:
        self.last: dict[CommandId, LastSign] = {}

    def with_signs(self, state: SagaState, happened: Input) -> Input:
        """The input with what a coordinator reads for it beside the history."""
        if isinstance(happened, Wake) and state.signs:
            return replace(happened, signs={c: self.last[c] for c in state.signs if c in self.last})
        if isinstance(happened, Reply) and happened.command_id in state.signs:
            return replace(happened, last_sign=self.last.get(happened.command_id))
        return happened

    def keep(self, effects: Sequence[Effect]) -> None:
        """Carry out what the engine asked for."""
        for effect in effects:
            if isinstance(effect, NoteSign):
                self.last[effect.command] = effect.sign
            elif isinstance(effect, ForgetSign):
                self.last.pop(effect.command, None)
