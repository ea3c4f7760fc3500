"""Standard streams as a shell may hand them over: closed, full, or unable to show what we write."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TextIO

#: What the system says where a stream takes no more: no space, closed, a broken device.
_REFUSED = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO, errno.EFBIG))
_PROBLEM = 1


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Run a command with streams that exist and can show any text; a result that can't be written is said."""
    _repair()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # `segue saga ls | head`: the reader has seen enough.
        give_up_stdout()
    except OSError as error:
        if not is_refusal(error):
            raise
        give_up_stdout()
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: {refusal(error)}\n")
        raise SystemExit(_PROBLEM) from None
    except SystemExit:
        try:
            sys.stdout.flush()
        except OSError:
            give_up_stdout()
        raise


def is_refusal(error: OSError) -> bool:
    """Whether the result could not be written; errors about files are others."""
    return error.errno in _REFUSED and error.filename is None


def refusal(error: OSError) -> str:
    """What to say of it."""
    if error.errno == errno.EBADF:
        return "the result can't be written: the standard output is closed"
    return f"the result can't be written: {error.strerror}"


def give_up_stdout() -> None:
    """Keep the interpreter's last flush from failing, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _repair() -> None:
    """Python has None for a stream whose descriptor was closed, and the next file opened would get its number."""
    if sys.stdin is None:
        _occupy(0, os.O_RDONLY)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:
        _occupy(1, os.O_RDONLY)  # so that writing to it still fails
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stderr is None:
        _occupy(2, os.O_WRONLY)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    _show_everything(sys.stdout)


def _occupy(number: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


def _show_everything(stream: TextIO) -> None:
    """In an ASCII terminal an arrow is written as its escape."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and stream.errors == "strict":
        reconfigure(errors="backslashreplace")
