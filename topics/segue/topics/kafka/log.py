"""Where the Kafka client logs, without saying the same thing twenty times a second."""

from __future__ import annotations

import logging
import re

#: librdkafka's own log lines arrive here, on the thread that polls.
LOGGER = logging.getLogger("segue.kafka")


class Repeats(logging.Filter):
    """Lets a line through once in `every` seconds, numbers in it aside: a client without a broker says 20 a second."""

    every = 30.0

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = re.sub(r"\d+", "#", record.getMessage())
        before = self._said.get(text)
        if before is not None and record.created - before < self.every:
            return False
        if len(self._said) >= 1000:
            self._said.clear()
        self._said[text] = record.created
        return True


LOGGER.addFilter(Repeats())
