"""Kafka as Segue sees it: the wire envelope, codecs, topic names, the broker port and its adapters.

`segue.topics.kafka` and `segue.topics.embedded` are not imported here: they load the Kafka client. Nor is
`segue.topics.avro`, which loads fastavro.
"""

from segue.topics.admin import Admin, Problem, TopicSpec, TopicState
from segue.topics.broker import Acked, Consumer, Headers, Outgoing, Partition, Polled, Producer, Record, Starts
from segue.topics.codec import Codec, Codecs, JsonCodec, RawCodec
from segue.topics.converter import Converter
from segue.topics.envelope import Command, Reply, Request, parse_command, parse_reply, parse_request
from segue.topics.memory import MemoryBroker, MemoryConsumer, MemoryProducer
from segue.topics.names import TopicNames
from segue.topics.partitioner import murmur2, partition_of
from segue.topics.settings import KafkaSettings

__all__ = [
    "Acked",
    "Admin",
    "Codec",
    "Codecs",
    "Command",
    "Consumer",
    "Converter",
    "Headers",
    "JsonCodec",
    "KafkaSettings",
    "MemoryBroker",
    "MemoryConsumer",
    "MemoryProducer",
    "Outgoing",
    "Partition",
    "Polled",
    "Problem",
    "Producer",
    "RawCodec",
    "Record",
    "Reply",
    "Request",
    "Starts",
    "TopicNames",
    "TopicSpec",
    "TopicState",
    "murmur2",
    "parse_command",
    "parse_reply",
    "parse_request",
    "partition_of",
]
