"""A small disk of our own, which can be filled: a tmpfs in a mount namespace of this process and its children.

It needs root, and vanishes with the last process that sees it, however that process ends.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

#: Bytes: some room for a bank's tables.
SIZE = 192 << 20
_CLONE_NEWNS = 0x00020000
_CHUNK = 1 << 20


def missing() -> str | None:
    """Why no disk can be mounted here, or None."""
    return None if os.geteuid() == 0 else "mounting a small disk needs root"


def leave_namespace() -> None:
    """Mounts made from now on are seen by this process and its children alone."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace of our own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class SmallDisk:
    """Mounted at `place` on construction."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "segue-chaos", str(place)], check=True)

    def fill(self) -> None:
        """Take all the room there is, to the last block."""
        block = _CHUNK
        with self._filler.open("ab", buffering=0) as filler:
            while block >= 512:
                try:
                    if filler.write(b"\0" * block) < block:
                        block //= 2
                except OSError:
                    block //= 2

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=False)
