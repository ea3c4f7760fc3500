"""Restate's Python handlers, served by hypercorn over HTTP/2: four trivial steps, undone in reverse if the last fails.

Runs in the peers' environment. Arguments: port.
"""

# Its packages are in an environment of its own, which type checkers do not see.
# mypy: disable-error-code="import-not-found, untyped-decorator"
from __future__ import annotations

import asyncio
import json
import sys

import hypercorn.asyncio
import hypercorn.config
import restate

service = restate.Service("Four")


def step(name: str, order: dict[str, str]) -> dict[str, bool]:
    """A step that does nothing but fail where it is told to."""
    if name == "confirm" and order["account"] == "unlucky":
        raise restate.TerminalError("unlucky")
    return {"ok": True}


@service.handler()
async def run(ctx: restate.Context, order: dict[str, str]) -> bool:
    """Four steps in a row; a failure is undone in reverse."""
    done: list[str] = []
    try:
        for name in ("charge", "reserve", "ship", "confirm"):
            await ctx.run_typed(name, step, name=name, order=order)
            done.append(name)
    except restate.TerminalError:
        for name in reversed(done):
            await ctx.run_typed(f"undo {name}", lambda: None)
        return False
    return True


def main() -> None:
    """Serve until the process is ended."""
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{json.loads(sys.argv[1])['port']}"]
    config.loglevel = "ERROR"
    asyncio.run(hypercorn.asyncio.serve(restate.app([service]), config))


if __name__ == "__main__":
    main()
