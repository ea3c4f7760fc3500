"""How to reach Kafka: one frozen value, turned into the properties of consumers, producers and admin clients.

The defaults are those of the wire protocol ("Client defaults"). Any librdkafka property may be given and wins over a
default, except the few that Segue's own guarantees rest on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segue.errors import ConfigError

Property = str | int | float | bool

#: What makes clients quick on the embedded broker (they work without it, too): the classic group protocol's first
#: assignment takes it 3 s, KIP-848's some milliseconds; it holds every fetch back for all of `fetch.wait.max.ms`,
#: records or not; and it answers an idempotent producer's first request after 0.5 s.
EMBEDDED_PROPERTIES: Mapping[str, Property] = {
    "group.protocol": "consumer",
    "fetch.wait.max.ms": 5,
    "enable.idempotence": False,
    "max.in.flight.requests.per.connection": 1,
    "broker.address.family": "v4",
}

#: Seconds after which an unacknowledged record is given up by the producer. The relay waits twice as long.
DELIVERY_TIMEOUT = 5.0

_CONSUMER_DEFAULTS: Mapping[str, Property] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "cooperative-sticky",
    "queued.max.messages.kbytes": 16384,
    # Fetch ahead what takes longer to handle than the next fetch takes, not all there is: a busy reader then asks for
    # a thousand records at a time instead of for each few that a producer has just sent. Measured, the broker needs a
    # fifth less CPU for a transition. Who keeps up has less than that waiting and is never held back. librdkafka's
    # defaults are 100,000 records, and a whole second until it looks again.
    "queued.min.messages": 1000,
    "fetch.queue.backoff.ms": 10,
    # A new assignment or a seek waits for the fetch under way: at most this long, where librdkafka's default is 500.
    "fetch.wait.max.ms": 100,
    "max.poll.interval.ms": 300_000,
    "allow.auto.create.topics": False,
}
#: What the guarantees rest on: a partition's end must be reported, and an offset that is gone must never be skipped.
_CONSUMER_FIXED: Mapping[str, Property] = {"enable.partition.eof": True, "auto.offset.reset": "error"}
_PRODUCER_DEFAULTS: Mapping[str, Property] = {
    "enable.idempotence": True,
    "acks": "all",
    # Under load, fuller requests: measured, a saga costs all processes together a fifth less CPU than with 1. Who has
    # nothing else to do does not wait for it (`Producer.poll` with a timeout).
    "linger.ms": 5,
    "compression.type": "lz4",
    # The largest dead letter: the largest record that Kafka takes by default, with the headers of a dead letter.
    "message.max.bytes": 1_060_000,
    "delivery.timeout.ms": int(DELIVERY_TIMEOUT * 1000),
    # Java's choice of partition; librdkafka's own default puts four keys of five elsewhere.
    "partitioner": "murmur2_random",
}
_FIXED_REASONS: Mapping[str, str] = {
    "bootstrap.servers": "give it as kafka.bootstrap",
    "metadata.broker.list": "give it as kafka.bootstrap",
    "group.id": "the group is named after the coordinator or worker",
    "transactional.id": "Segue uses no Kafka transactions",
    "enable.partition.eof": "Segue must see the end of a partition before a deadline may fire",
    "auto.offset.reset": "Segue starts at its own stored offsets and never skips records",
    "enable.auto.commit": "offsets are stored with the transitions they led to",
    "enable.auto.offset.store": "offsets are stored with the transitions they led to",
}
#: librdkafka's properties with a C or a P in the second column of CONFIGURATION.md: given to the other kind of client
#: they would only cause a warning on every start.
_CONSUMER_ONLY = frozenset(
    {
        "allow.auto.create.topics",
        "auto.commit.interval.ms",
        "check.crcs",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.instance.id",
        "group.protocol",
        "group.protocol.type",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "isolation.level",
        "coordinator.query.interval.ms",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "offset.store.method",
        "partition.assignment.strategy",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "session.timeout.ms",
        "client.rack",
    }
)
_PRODUCER_ONLY = frozenset(
    {
        "acks",
        "request.required.acks",
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "delivery.report.only.error",
        "delivery.timeout.ms",
        "dr_cb",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.backpressure.threshold",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "queuing.strategy",
        "request.timeout.ms",
        "retries",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
    }
)
#: Two names of one property; giving the alias must replace the default.
_ALIASES: Mapping[str, str] = {
    "message.timeout.ms": "delivery.timeout.ms",
    "request.required.acks": "acks",
    "compression.codec": "compression.type",
    "queue.buffering.max.ms": "linger.ms",
}
#: KIP-848: the broker decides on these, librdkafka refuses them.
_CLASSIC_ONLY = ("partition.assignment.strategy",)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Where Kafka is, and librdkafka properties that replace or extend the defaults.

    Raises ConfigError for an empty address, and for a property that Segue must set itself.
    """

    bootstrap: str
    properties: Mapping[str, Property] = field(default_factory=dict)
    client_id: str = "segue"

    def __post_init__(self) -> None:
        if not self.bootstrap.strip():
            raise ConfigError(f"kafka.bootstrap is {self.bootstrap!r}; give one or more host:port, joined by commas")
        for name, value in self.properties.items():
            if name in _FIXED_REASONS:
                raise ConfigError(f"kafka.properties: {name} = {value!r} can't be set: {_FIXED_REASONS[name]}")
            if not isinstance(value, str | int | float | bool):
                raise ConfigError(f"kafka.properties: {name} is {value!r}; allowed are text, numbers, true and false")
        strategy = self.properties.get("partition.assignment.strategy", "cooperative-sticky")
        if strategy != "cooperative-sticky":
            raise ConfigError(
                f"kafka.properties: partition.assignment.strategy is {strategy!r}; allowed is 'cooperative-sticky', "
                "or leave it out and set group.protocol = 'consumer'"
            )

    @property
    def delivery_timeout(self) -> float:
        """Seconds after which the producer gives a record up."""
        value = self.properties.get("delivery.timeout.ms", self.properties.get("message.timeout.ms"))
        return DELIVERY_TIMEOUT if value is None else float(value) / 1000

    @property
    def read_committed(self) -> bool:
        """Whether records of open and aborted transactions of other producers are held back."""
        return self.properties.get("isolation.level", "read_committed") == "read_committed"

    def consumer(self, group: str | None) -> dict[str, Property]:
        """The properties of a consumer; without a group it is assigned by hand."""
        merged = self._merged(_CONSUMER_DEFAULTS, _PRODUCER_ONLY)
        if self.properties.get("group.protocol") == "consumer":
            for name in _CLASSIC_ONLY:
                if name not in self.properties:
                    del merged[name]
        return {**merged, **_CONSUMER_FIXED, "group.id": group or f"{self.client_id}-alone"}

    def producer(self) -> dict[str, Property]:
        """The properties of a producer."""
        return self._merged(_PRODUCER_DEFAULTS, _CONSUMER_ONLY)

    def admin(self) -> dict[str, Property]:
        """The properties of an admin client."""
        return self._merged({}, _CONSUMER_ONLY | _PRODUCER_ONLY)

    def _merged(self, defaults: Mapping[str, Property], foreign: frozenset[str]) -> dict[str, Property]:
        given = {_ALIASES.get(name, name): value for name, value in self.properties.items() if name not in foreign}
        return {"client.id": self.client_id, **defaults, **given, "bootstrap.servers": self.bootstrap}
