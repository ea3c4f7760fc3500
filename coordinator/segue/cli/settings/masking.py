"""Secrets never reach a terminal, a log or an error message."""

from __future__ import annotations

import re

MASK = "***"

#: librdkafka properties, and words in the names of others, whose values are secret.
_SECRET_PROPERTY = re.compile(
    r"password|secret|\.pem$|jaas|token|credential|passphrase|oauthbearer\.config", re.IGNORECASE
)
#: Greedy to the last `@`: a password may hold `@`, `/` or `?` unescaped, and masking too much is the smaller evil.
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@?#\s]*):(\S*)@")
_QUERY_SECRET = re.compile(r"([?&](?:[\w.-]*(?:password|secret|token|passphrase)[\w.-]*)=)[^&#]*", re.IGNORECASE)


def is_secret_property(name: str) -> bool:
    """Whether the value of this librdkafka property must not be shown, as that of `sasl.password`."""
    return _SECRET_PROPERTY.search(name) is not None


def mask_url(url: str) -> str:
    """`url` with its password, in the authority or in the query, replaced by `***`; other text passes unchanged."""
    return _QUERY_SECRET.sub(rf"\g<1>{MASK}", _URL_PASSWORD.sub(rf"\g<1>:{MASK}@", url))
