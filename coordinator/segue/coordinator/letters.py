"""Dead letters: what makes two of them the same error."""

from __future__ import annotations

import hashlib
import re

_VARYING = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|'[^']*'|\"[^\"]*\"|\d+")


def fingerprint_of(reason: str, error: BaseException) -> str:
    """Twelve hex digits that are equal for errors which differ only in ids, quoted values and numbers."""
    text = f"{reason}\n{type(error).__name__}\n{_VARYING.sub('?', str(error))}"
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
