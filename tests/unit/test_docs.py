"""The documentation is about what there is: links resolve, code compiles, names are those of the code."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue import errors
from segue.errors import SegueError
from segue.outbox import message
from segue.outbox.schema import outbox_table
from segue.saga import failures
from segue.topics import deadletter, envelope
from tests.unit.cli.kit import segue

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
PAGES = sorted([CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
WIRE = (DOCS / "reference/wire-protocol.md").read_text("utf-8")
ERRORS = (DOCS / "reference/errors.md").read_text("utf-8")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<content>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADER = re.compile(r"\b(?:ce_[a-z]+|content-type|traceparent|tracestate|baggage)\b")
_DEAD = re.compile(r"\b(?:kafka_dlt-[a-z]+(?:-[a-z]+)*|dlq_[a-z]+(?:_[a-z]+)*)\b")


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in _FENCE.finditer(page.read_text("utf-8")):
        if found["info"].split(" ")[0] == language:
            yield textwrap.dedent(found["content"])


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- pages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        compile(block, name_of(page), "exec", flags=flags)


def test_the_index_lists_every_page() -> None:
    index = DOCS / "index.md"
    listed = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", index.read_text("utf-8"))}
    architecture = DOCS / "architecture/index.md"
    listed |= {
        (architecture.parent / link).resolve()
        for link in re.findall(r"\]\(([^)#\s]+)", architecture.read_text("utf-8"))
    }
    assert set(DOCS.rglob("*.md")) - {index} <= listed


# --- commands


def listed_commands() -> set[str]:
    def verbs(*noun: str) -> list[str]:
        return re.findall(r"^  ([a-z]+)  ", segue(*noun, "--help").out.partition("Commands:")[2], re.MULTILINE)

    return {f"{noun} {verb}".strip() for noun in verbs() for verb in verbs(noun) or [""]}


def named_commands() -> Iterator[tuple[str, str]]:
    """Page, and what follows `segue` where a command line is shown: in a console or shell block, or in backticks."""
    for page in PAGES:
        shown = [
            line for language in ("console", "sh") for block in blocks(page, language) for line in block.splitlines()
        ]
        lines = [line.removeprefix("$ ") for line in shown] + re.findall(r"`([^`\n]+)`", prose(page))
        for line in lines:
            for command in re.findall(r"(?:^|[;&|] |exec )segue ([^;&|`]*)", line):
                yield name_of(page), command


def test_every_command_that_is_named_exists_with_its_options() -> None:
    known = listed_commands()
    nouns = {command.split()[0] for command in known}
    helped: dict[str, str] = {}
    seen = 0
    for page, line in named_commands():
        words = line.split()
        if not words or words[0] not in nouns:
            assert not words or not re.fullmatch(r"[a-z]+", words[0]), f"{page}: segue {line}"
            continue
        command = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
        if command is None:
            assert len(words) == 1 or not re.fullmatch(r"[a-z]+", words[1]), f"{page}: segue {line}"
            continue
        if command not in helped:
            helped[command] = segue(*command.split(), "--help").out
        for option in re.findall(r"(?<= )--[a-z-]+", re.sub(r"\"[^\"]*\"|'[^']*'", "", line)):
            assert re.search(rf"{option}\b", helped[command]), f"{page}: segue {line}: {option}"
        seen += 1
    assert seen > 50


# --- the wire protocol


def headers_of_the_code() -> set[str]:
    return set(_HEADER.findall(inspect.getsource(envelope))) | set(message.COLUMN_HEADERS.values())


def test_the_protocol_names_every_header_and_no_other() -> None:
    assert set(_HEADER.findall(WIRE)) == headers_of_the_code()


def test_the_protocol_has_every_column_of_the_outbox_with_its_header() -> None:
    table = WIRE.partition("## The outbox table")[2].partition("##")[0]
    columns = dict(re.findall(r"^\| `(\w+)` \| `([\w-]+)` \|$", table, re.MULTILINE))
    assert columns == dict(message.COLUMN_HEADERS)
    assert {column.name for column in outbox_table.columns} <= set(re.findall(r"`(\w+)`", table))


def test_every_header_has_a_line_in_the_table() -> None:
    table = WIRE.partition("## Headers")[2].partition("## Outcomes")[0]
    firsts = {name for cell in re.findall(r"^\|([^|]+)\|", table, re.MULTILINE) for name in _HEADER.findall(cell)}
    assert firsts == headers_of_the_code()


def test_the_protocol_names_every_header_of_a_dead_letter_and_no_other() -> None:
    assert set(_DEAD.findall(WIRE)) == set(_DEAD.findall(inspect.getsource(deadletter)))


def test_the_protocol_names_every_outcome_and_action() -> None:
    outcomes = WIRE.partition("## Outcomes")[2].partition("## Payloads")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", outcomes, re.MULTILINE)) == envelope.OUTCOMES
    requests = WIRE.partition("## Requests")[2].partition("## Dead letters")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", requests, re.MULTILINE)) == envelope.REQUEST_ACTIONS
    assert all(f"`{action}`" in WIRE for action in envelope.ACTIONS)


def test_the_protocol_has_the_namespace_of_ids() -> None:
    from segue.ids import NAMESPACE

    assert str(NAMESPACE) in WIRE


# --- errors


def exceptions() -> dict[str, tuple[str, str]]:
    """Name → code and first line of the docstring."""
    found = {}
    for module in (errors, failures):
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, SegueError) and value is not SegueError:
                found[name] = (value.code, (inspect.getdoc(value) or "").splitlines()[0])
    return found


def test_the_page_of_errors_has_every_exception_with_its_code_and_meaning() -> None:
    rows = re.findall(r"^\| (?:· )*`(\w+)` \| `(\w+)` \| (.*) \|$", ERRORS, re.MULTILINE)
    assert {name: (code, text) for name, code, text in rows} == exceptions()


def test_the_page_of_errors_has_every_reason_for_a_dead_letter() -> None:
    table = ERRORS.partition("## Why a record is a dead letter")[2]
    documented = set(re.findall(r"`([a-z_]+)`", table))
    work = (CHECKOUT / "coordinator/segue/coordinator/work.py").read_text("utf-8")
    coordinator = set(re.findall(r"_dead\(\s*item, \"([a-z_]+)\"", work))
    worker = {
        code
        for path in (CHECKOUT / "activities/segue/activities").glob("*.py")
        for code in re.findall(
            r"(?:_die\(task, |dead=\(|_faulty\(record, command, )\"([a-z_]+)\"", path.read_text("utf-8")
        )
    }
    assert len(coordinator) >= 9
    assert worker >= {"handling_failed", "beyond_horizon", "unknown_activity", "invalid_input"}
    assert coordinator | worker <= documented


def test_the_page_of_errors_has_the_codes_that_the_engine_gives() -> None:
    sources = "".join(path.read_text("utf-8") for path in (CHECKOUT / "coordinator/segue/saga").glob("*.py"))
    codes = set(re.findall(r"code=\"([a-z_]+)\"", sources))
    failed, _, blocked = ERRORS.partition("## Codes of failed steps and sagas")[2].partition("## Why a saga is blocked")
    table = failed + blocked.partition("\n## ")[0]
    assert {"timeout", "deadline", "cancelled", "history_limit"} <= codes
    assert codes <= set(re.findall(r"`([a-z_]+)`", table))


# --- log events


def events_of_the_code() -> set[str]:
    found: set[str] = set()
    for root in ("topics", "outbox", "activities", "coordinator"):
        for path in (CHECKOUT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event":
                    found |= {str(leaf.value) for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)}
    return found


def test_the_page_of_log_events_has_every_event_and_no_other() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / "reference/log-events.md").read_text("utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    assert documented == events_of_the_code()
