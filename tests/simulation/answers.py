"""Who answers commands whose handlers have raised `ReplyLater`: another process, later, twice, or too late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.errors import NotAllowed, NotFound
from segue.outbox.faults import is_transient_database
from tests.simulation.database import Books
from tests.simulation.world import NEVER, SECOND, Process

if TYPE_CHECKING:
    from tests.simulation.system import System

#: When the answer comes, in microseconds after the handler has put it off: some steps are over by then.
ANSWERS = (200_000, 2 * SECOND, 12 * SECOND, 40 * SECOND)
#: The first pause, in microseconds, before an answer is tried again that no command waits for; each is twice the last.
FIRST_PAUSE = 50_000
#: After a pause as long as this one, whoever put it off has been rolled back: no transaction lasts as long.
LAST_PAUSE = 64 * SECOND


@dataclass(slots=True)
class Waiting:
    """An answer that is to be given at `when`."""

    when: int
    token: str
    output: Any
    pause: int = FIRST_PAUSE


class AnswerProcess(Process):
    """What it has to answer is in tables of its own, which nothing here can break."""

    def __init__(self, system: System, name: str, books: Books) -> None:
        super().__init__(system.world, name)
        self._system = system
        self._books = books
        self._waiting: list[Waiting] = []

    def expect(self, after: int, token: str, output: Any) -> None:
        """Answer this command after so many microseconds."""
        self._waiting.append(Waiting(self.world.now + after, token, output))
        self.world.wake(self, self.world.now + after)

    def boot(self) -> None:
        pass

    def turn(self) -> bool:
        due = [waiting for waiting in self._waiting if waiting.when <= self.world.now]
        for waiting in due:
            if self._answer(waiting):
                self._waiting.remove(waiting)
        return bool(due)

    def _answer(self, waiting: Waiting) -> bool:
        """Whether it need not be tried again."""
        points = self.world.points
        try:
            first = self._books.answer(self, waiting.token, waiting.output)
            points["answered_later" if first else "answered_twice"] += 1
        except NotAllowed:
            points["answered_in_vain"] += 1
        except NotFound:
            return self._given_up(waiting)  # who put it off has not committed yet, or was rolled back
        except Exception as error:
            if not is_transient_database(error):
                raise
            self.hurt = True
            return False
        finally:
            for worker in self._system.workers:
                if worker.books is self._books:
                    self.world.wake(worker, self.world.now + 1_000)
        return True

    def _given_up(self, waiting: Waiting) -> bool:
        if waiting.pause > LAST_PAUSE:
            return True
        waiting.when = self.world.now + waiting.pause
        waiting.pause *= 2
        return False

    def more(self) -> bool:
        return self.hurt

    def next_time(self) -> int:
        if self.hurt:
            return self.backoff()
        return min((waiting.when for waiting in self._waiting), default=NEVER)

    def died(self) -> None:
        if not self._system.over:
            self.world.at(self.world.now + SECOND, self._restart)

    def _restart(self) -> None:
        if not self.alive:
            self.start()
