"""Kafka through confluent-kafka: the only package that imports the client.

librdkafka is not fork-safe: a client belongs to the process that made it, and says so when used from another one.
"""

from segue.topics.kafka.admin import KafkaAdmin
from segue.topics.kafka.consumer import KafkaConsumer
from segue.topics.kafka.errors import error_of, translated
from segue.topics.kafka.mock import MockCluster
from segue.topics.kafka.producer import KafkaProducer

__all__ = ["KafkaAdmin", "KafkaConsumer", "KafkaProducer", "MockCluster", "error_of", "translated"]
