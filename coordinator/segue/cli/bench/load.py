"""The load of `segue bench`: starts sagas, answers all their commands, and counts the sagas that sent the last one."""

from __future__ import annotations

from segue.cli.bench.sagas import SERVICE, STEPS, Load
from segue.errors import BrokerUnavailable
from segue.ids import derive, reply_id
from segue.topics.broker import Consumer, Outgoing, Producer, Record
from segue.topics.converter import Converter
from segue.topics.envelope import Reply, Request, parse_command
from segue.topics.names import TopicNames

_LAST = f"{SERVICE}.{STEPS[-1]}"
#: Commands that are read at a time.
_AT_ONCE = 1_000
#: Seconds that a turn waits for commands.
_WAIT = 0.005
#: Characters of a payload, beside some fifty of its own.
_LENGTH = 250


def _text(number: int) -> str:
    """Half of it repeats, half does not, as in business messages: it is compressed on its way."""
    return "".join(f"{word} {derive(str(number), str(word))[:8]} " for word in range(_LENGTH // 11))


class LoadGenerator:
    """One thread that is the client and the service at once. `answered` counts sagas whose last step was answered."""

    def __init__(self, names: TopicNames, consumer: Consumer, producer: Producer) -> None:
        self._names = names
        self._consumer = consumer
        self._producer = producer
        self._converter = Converter()
        self._failed: list[Exception] = []
        self.started = 0
        self.answered = 0
        #: What Kafka said last when it could not be read.
        self.trouble = ""
        self._seen: set[str] = set()
        consumer.subscribe([names.commands_of(SERVICE)], starts=lambda _assigned: {}, revoked=lambda _gone: None)

    def start(self) -> str:
        """Start one saga; its id."""
        saga_id = f"bench-{self.started}"
        request = Request(id=f"{saga_id}-start", action="start", saga_id=saga_id, name="four-steps", source="bench")
        body = self._converter.to_bytes(Load(number=self.started, text=_text(self.started)), Load)
        self._send(Outgoing(topic=self._names.requests, key=saga_id.encode(), value=body, headers=request.headers()))
        self.started += 1
        return saga_id

    def step(self) -> None:
        """Answer what has come. Raises what Kafka reports of messages that were sent."""
        try:
            records = self._consumer.poll(_AT_ONCE, _WAIT).records
        except BrokerUnavailable as error:
            # A topic that was just created may have no leader yet. The caller says when it is enough.
            self.trouble = str(error)
            records = ()
        for record in records:
            self._answer(record)
        self._producer.poll()
        if self._failed:
            raise self._failed[0]

    def _answer(self, record: Record) -> None:
        command = parse_command(record)
        reply = Reply(
            id=reply_id(command.id, "success"),
            command_id=command.id,
            saga_id=command.saga_id,
            type=command.activity,
            source="bench",
        )
        self._send(Outgoing(topic=command.reply_to, key=record.key, value=b"true", headers=reply.headers()))
        # A command may come twice.
        if command.activity == _LAST and command.saga_id not in self._seen:
            self._seen.add(command.saga_id)
            self.answered += 1

    def _send(self, record: Outgoing) -> None:
        while True:
            try:
                self._producer.send(record, self._heard)
                return
            except BrokerUnavailable:
                # The local queue is full.
                self._producer.poll(0.05)

    def _heard(self, error: Exception | None) -> None:
        if error is not None:
            self._failed.append(error)
