"""Text from elsewhere, made safe for a terminal.

Ids, error messages and payloads are other people's data. Unescaped, an error message could clear the screen, rewrite
the line above it, or (by bidirectional controls) show a text that is not the one stored.
"""

from __future__ import annotations

import unicodedata

#: Control, format (bidirectional and zero-width ones), surrogate, private, line and paragraph separators.
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
#: Longest text in one cell; the rest is in `--json`.
_LONGEST = 2_000


def escape(value: object, longest: int = _LONGEST) -> str:
    """`value` as one line of visible characters, the others as escapes; cut with `…` at `longest` characters."""
    text = str(value)
    cut = text[:longest]
    safe = "".join(_visible(character) for character in cut) if not cut.isascii() or not cut.isprintable() else cut
    return safe + "…" if len(text) > longest else safe


def excerpt(payload: bytes | None, longest: int = 120) -> str:
    """The beginning of a payload: text as it is, other bytes as their number."""
    if payload is None:
        return "none"
    try:
        return escape(payload.decode(), longest)
    except UnicodeDecodeError:
        return f"{len(payload):,} bytes, no text: {payload[:16].hex(' ')}{' …' if len(payload) > 16 else ''}"


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape").decode("ascii") if not "\ud800" <= character <= "\udfff" else "\\ufffd"
