"""Secrets never reach a terminal, a log or an error message."""

from __future__ import annotations

import re

MASK = "***"

#: Words in the names of properties of librdkafka and of the Schema Registry's client whose values are secret.
_SECRET_PROPERTY = re.compile(
    r"password|secret|\.pem$|jaas|token(?!\.endpoint)|credential|passphrase|oauthbearer\.config|user\.info|\bapi\.key"
    r"|private\.key(?!\.location)|kinit\.cmd|ssl[._]key$|assertion\.jwt|audit_key",
    re.IGNORECASE,
)
#: Greedy to the last `@`: a password may hold `@`, `/` or `?` unescaped, and masking too much is the smaller evil.
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@?#\s]*):(\S*)@")
_QUERY_SECRET = re.compile(r"([?&](?:[\w.-]*(?:password|secret|token|passphrase)[\w.-]*)=)[^&#]*", re.IGNORECASE)


def is_secret_property(name: str) -> bool:
    """Whether the value of this librdkafka property must not be shown, as that of `sasl.password`."""
    return _SECRET_PROPERTY.search(name) is not None


def shown_property(name: str, value: object) -> str:
    """The value of a property for people: secrets masked, and passwords in URLs (a registry's, a proxy's), too."""
    return MASK if is_secret_property(name) else mask_url(str(value))


def holds_secret(name: str, value: object) -> bool:
    """Whether this setting or property, given as it is, shows a secret."""
    if name in ("kafka.properties", "avro.properties"):  # all of them at once, as one JSON object
        return is_secret_property(str(value)) or mask_url(str(value)) != str(value)
    return is_secret_property(name) or shown_property(name, value) != str(value)


def mask_url(url: str) -> str:
    """`url` with its password, in the authority or in the query, replaced by `***`; other text passes unchanged."""
    return _QUERY_SECRET.sub(rf"\g<1>{MASK}", _URL_PASSWORD.sub(rf"\g<1>:{MASK}@", url))
