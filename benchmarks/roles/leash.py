"""How a process of a benchmark is led: its arguments, `ready`, words on its input with an answer each, the end."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from segue.topics import TopicNames


class Leash:
    """The child's end. It must stop soon after `stopped` is set, which also happens when its parent dies."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = json.loads(sys.argv[1])
        self.stopped = threading.Event()
        self._words: Mapping[str, Callable[[], Any]] = {}

    @property
    def names(self) -> TopicNames:
        """The topics of the estate."""
        tag = self.arguments["tag"]
        return TopicNames(coordinator=f"coordinator-{tag}", commands="{service}.commands-" + tag)

    def ready(self, words: Mapping[str, Callable[[], Any]] | None = None) -> None:
        """Say `ready`, and listen for these words from now on, in a thread."""
        self._words = words or {}
        self._say("ready")
        threading.Thread(target=self._listen, name="leash", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._say(self._words[line.strip()]())
        self.stopped.set()

    def _say(self, value: Any) -> None:
        print(json.dumps(value), flush=True)
