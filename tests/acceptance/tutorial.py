"""Does what a page tells its reader to do, and compares what comes out with what the page says.

    python -m tests.acceptance.tutorial docs/tutorial.md --write      puts the real output into the page

A block of `console` holds commands after `$ ` and their output; `segue dev`, and a program of the page's own in a block
`console behind`, stay in a terminal of their own until a block says `^C`. A block with `title="FILE"` is saved as that
file; with `shown` the file must hold it already.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("tutorial.md", "how-to/service-in-another-language.md")
#: Seconds that one command, and the start of `segue dev`, may take on a busy machine.
PATIENCE = 120.0

_BLOCK = re.compile(r"^```(console|python|toml)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(\$ .*|\^C)\n((?:(?!\$ |\^C).*\n)*)", re.MULTILINE)
#: Commands that only look: a reader who is quicker than the coordinator looks again.
_LOOKS = re.compile(r"segue (saga|dlq) ls")
#: That a saga's code was edited, that the broker is a new one: logged before, after or between the lines of a page.
_AT_NO_CERTAIN_MOMENT = re.compile(r"segue (definition|offset)\.(alert|restarted)")
_VARYING = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?Z?"), "TIME"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    # Which partition a record went to, and what lies before it there.
    (re.compile(r"\[\d+\]@\d+|partition[ =]\d+,? offset[ =]\d+"), "PLACE"),
    (re.compile(r"\d+ sagas and audit lines"), "MANY"),
    (re.compile(r"\b(\d+d)?(\d+h)?(\d+m)?(\d+(\.\d+)?s|\d+ms|\d+m)\b"), "AGE"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of the page; `span` is where its content is."""

    language: str
    info: str
    content: str
    span: tuple[int, int]


def blocks(page: str) -> Iterator[Block]:
    """The page's blocks, in order."""
    for found in _BLOCK.finditer(page):
        yield Block(language=found[1], info=found[2], content=found[3], span=found.span(3))


def bare(text: str) -> list[str]:
    """What of `text` is the same every time; sorted, for columns fold and two processes write as they like."""
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return sorted("".join(text.split()))


class Behind:
    """`segue dev` in the other terminal."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command.split(),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def started(self, lines: int) -> str:
        """The first lines that it says."""
        said: list[str] = []
        for _ in range(lines):
            line = self._lines.get(timeout=PATIENCE)
            if line is None:
                raise AssertionError("it ended:\n" + "".join(said))
            said.append(line)
        return "".join(said)

    def stopped(self) -> str:
        """Ctrl-C, and what it says from then on."""
        while not self._lines.empty():
            self._lines.get()
        self._process.send_signal(signal.SIGINT)
        said: list[str] = []
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            said.append(line)
        self.close()
        return "".join(said)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        finally:
            # One that hangs is not left to the tests after this one.
            self._process.kill()
            self._process.wait()
            self._reader.join(PATIENCE)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if not _AT_NO_CERTAIN_MOMENT.search(line):
                    self._lines.put(line)
        self._lines.put(None)


class Reader:
    """Follows the page in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SEGUE_")}
        scripts = str(Path(sys.executable).parent)
        self._environment = {**kept, "PATH": scripts + os.pathsep + kept["PATH"], "PYTHONUNBUFFERED": "1"}
        self._behind: list[Behind] = []

    def follow(self, block: Block) -> str:
        """Do what the block says; the block as it is after that."""
        if block.language != "console":
            return self._file(block)
        said: list[str] = []
        for line, expected in _COMMAND.findall(block.content):
            if line == "^C":
                output = self._behind.pop().stopped()
            else:
                output = self._run(line.removeprefix("$ "), expected, behind="behind" in block.info)
            said.append(line + "\n" + re.sub(r"[ \t]+$", "", output, flags=re.MULTILINE))
        return "".join(said)

    def close(self) -> None:
        """End all of them, also where one does not end as it should; that is raised when all have ended."""
        with ExitStack() as closing:
            for behind in self._behind:
                closing.callback(behind.close)

    def _file(self, block: Block) -> str:
        title = re.search(r'title="([^"]+)"', block.info)
        if title is None:
            return block.content
        path = self._folder / title[1]
        if "shown" in block.info:
            shown = path.read_text("utf-8")
            return block.content if block.content in shown else shown
        path.write_text(block.content, "utf-8")
        return block.content

    def _run(self, command: str, expected: str, *, behind: bool) -> str:
        if command.startswith("cd "):
            self._folder /= command.removeprefix("cd ")
            return ""
        if behind or command.startswith("segue dev"):
            self._behind.append(Behind(command, self._folder, self._environment))
            return self._behind[-1].started(max(1, len(expected.splitlines())))
        output = self._output(command)
        for _ in range(10 if _LOOKS.match(command) else 0):
            if bare(output) == bare(expected):
                break
            output = self._output(command)
        return output

    def _output(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.stdout


def follow(page: str, folder: Path) -> Iterator[tuple[Block, str]]:
    """Each block of the page with what it should say."""
    reader = Reader(folder)
    try:
        for block in blocks(page):
            yield block, reader.follow(block)
    finally:
        reader.close()


def rewritten(page: str, folder: Path) -> str:
    """The page with the output of today."""
    parts, end = [], 0
    for block, content in follow(page, folder):
        parts += [page[end : block.span[0]], content]
        end = block.span[1]
    return "".join([*parts, page[end:]])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        text = rewritten(path.read_text("utf-8"), Path(temporary))
    if "--write" in sys.argv:
        path.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
