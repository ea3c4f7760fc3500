"""What librdkafka's errors mean, in Segue's own tree of exceptions."""

# ruff: noqa: SLF001 - librdkafka's own error codes are public although their names begin with an underscore

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from segue.errors import BrokerUnavailable, ConfigError, RejectedRecord, SegueError

_NOT_AUTHORISED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)
NOT_AUTHENTICATED = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
)
#: The end of a partition.
END: int = KafkaError._PARTITION_EOF
#: What was fetched can't be unpacked or is damaged; fetched again it is the same.
UNREADABLE = (
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError._NOT_IMPLEMENTED,
    KafkaError.INVALID_MSG,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
)
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_BAD_SETTING = (
    KafkaError._INVALID_ARG,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._SSL,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.UNSUPPORTED_ASSIGNOR,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.INVALID_GROUP_ID,
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REQUIRED_ACKS,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.POLICY_VIOLATION,
)
_BAD_RECORD = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
)


def translated(error: KafkaError, what: str, bootstrap: str) -> SegueError:
    """The exception of Segue's own tree that says what to do about `error`; `what` was being done."""
    code, text = error.code(), error.str()
    if code in _NOT_AUTHORISED:
        return ConfigError(f"{what}: Kafka refuses ({text}); grant the ACL to this user")
    if code in NOT_AUTHENTICATED:
        return ConfigError(f"{what}: Kafka at {bootstrap} refuses the credentials ({text}); see kafka.properties")
    if code in _NO_TOPIC:
        return ConfigError(f"{what}: no such topic or partition ({text}); create it with `segue topics create`")
    if code in _BAD_SETTING:
        return ConfigError(f"{what}: {text}; librdkafka's CONFIGURATION.md says what is allowed")
    if code in _BAD_RECORD:
        return RejectedRecord(
            f"{what}: {text}; the limits are message.max.bytes here and max.message.bytes of the topic"
        )
    return BrokerUnavailable(f"{what}: {text} (Kafka at {bootstrap})")


def error_of(exception: KafkaException) -> KafkaError:
    """The KafkaError that a KafkaException carries."""
    error = exception.args[0] if exception.args else None
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))
