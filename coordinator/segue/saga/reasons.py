"""Why a step or a saga failed, in the engine's own words."""

from __future__ import annotations

import msgspec

from segue.errors import SegueError
from segue.saga import events as e
from segue.saga.inputs import Reply

STOPPED = e.Failure(code="stopped", message="the saga was stopped before it was tried again", kind="saga")
COMPENSATED = e.Failure(code="compensated", message="the saga's code undid what it had done", kind="saga")
ABANDONED = e.Failure(code="abandoned", message="the saga's code no longer waited for it", kind="saga")


def failure_of(reply: Reply) -> e.Failure:
    """What a negative reply says. Raises SegueError for a body that is no JSON: that has been looked at before."""
    message, details = "", e.NULL
    try:
        body = msgspec.json.decode(reply.body)
    except msgspec.MsgspecError as error:
        raise SegueError(f"a reply's body reached the engine unchecked: {error}") from error
    if isinstance(body, dict):
        message = str(body.get("message", ""))[:1024]
        details = msgspec.Raw(msgspec.json.encode(body.get("details")))
    kind = "rejected" if reply.outcome == "failure" else "spent"
    return e.Failure(code=reply.error or reply.outcome, message=message, kind=kind, details=details)  # type: ignore[arg-type]


def too_long(allowed: int) -> e.Failure:
    """The history has `allowed` transitions."""
    message = (
        f"its history has reached {allowed:,} transitions, the most that are allowed (limits.history_events); "
        "a saga that lives long goes on in new runs, by continue_as_new"
    )
    return e.Failure(code="history_limit", message=message, kind="saga")


def too_many(allowed: int) -> e.Failure:
    """The code asks for more than `allowed` commands at a time."""
    message = (
        f"more than {allowed:,} of its commands would be outstanding at a time, the most that are allowed"
        " (limits.pending_commands); saga.map bounds them by its `concurrency`"
    )
    return e.Failure(code="command_limit", message=message, kind="saga")


def silence(timeout: int) -> e.Failure:
    """No answer within `timeout` microseconds."""
    return e.Failure(code="timeout", message=f"no answer within {timeout / 1_000_000:g} s", kind="timeout")


def attempt_silence(timeout: int) -> e.Failure:
    """No answer to one attempt within `timeout` microseconds."""
    message = f"no answer to this attempt within {timeout / 1_000_000:g} s"
    return e.Failure(code="attempt_timeout", message=message, kind="timeout")
