"""A pytest plugin: the fixture `segue_explore`, its budget as an option, and its reports at the end of the run.

Installed with Segue and loaded by every run of pytest, so it imports nothing of Segue before a test asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from datetime import timedelta

    from segue.contract import Signal
    from segue.saga.definition import SagaDefinition
    from segue.testing.explorer import Activities
    from segue.testing.report import Case, Report

I = TypeVar("I")  # noqa: E741 - the field's own letter: input

#: Reports travel from workers to the terminal with the test's report: the text as a section, which a failing test
#: shows, both under this name as an attribute, which nothing shows.
_TEXT, _ATTRIBUTE = "segue_explore", "segue_explorations"
_FOUND = pytest.StashKey[list[tuple[str, str]]]()


class Explore(Protocol):
    """What the fixture `segue_explore` gives a test: `explore`, with the budget of the command line."""

    def __call__(
        self,
        definition: SagaDefinition[I, Any],
        *,
        input: I,
        activities: Activities | Callable[[], Activities],
        signals: Mapping[Signal[Any], Any] | None = None,
        check: Callable[[Case], None] | None = None,
        budget: int | None = None,
        until: timedelta | None = None,
        only: str | None = None,
    ) -> Report:
        """As `segue.testing.explore`; raises SagaTestError if there are violations."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("segue", "explorations of sagas")
    group.addoption(
        "--segue-explore-budget",
        type=int,
        metavar="RUNS",
        help="runs of each exploration, instead of what its test says",
    )
    group.addoption(
        "--segue-explore-json", type=Path, metavar="FILE", help="write the reports of all explorations to FILE"
    )


@pytest.fixture
def segue_explore(request: pytest.FixtureRequest) -> Explore:
    """A function that explores a saga, as `segue.testing.explore` does, and fails the test for what it finds.

    It returns the report, for coverage and outcomes; all reports are summed up at the end of the run (whole with -v).
    `--segue-explore-budget` overrides `budget`.
    """

    def run(definition: SagaDefinition[Any, Any], *, budget: int | None = None, **options: Any) -> Report:
        from segue.testing.explorer import BUDGET, explore

        chosen = request.config.getoption("--segue-explore-budget") or budget or BUDGET
        report = explore(definition, budget=chosen, **options)
        request.node.add_report_section("call", _TEXT, report.text())
        wanted = request.config.getoption("--segue-explore-json") is not None
        request.node.stash.setdefault(_FOUND, []).append((report.text(), report.to_json() if wanted else ""))
        report.raise_for_violations()
        return report

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """The test's report takes the explorations along, from a worker to the terminal, too."""
    report = yield
    if call.when == "call" and (found := item.stash.get(_FOUND, None)):
        setattr(report, _ATTRIBUTE, found)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line per exploration, or the whole reports with -v; and the file of `--segue-explore-json`."""
    found = list(_explorations(terminalreporter))
    if found:
        terminalreporter.section("explorations of sagas", sep="-")
    for test, text, _ in found:
        shown = text if config.get_verbosity() > 0 else text.partition("\n")[0]
        terminalreporter.write_line(f"{test}\n{shown}\n" if config.get_verbosity() > 0 else f"{shown}  ({test})")
    path: Path | None = config.getoption("--segue-explore-json")
    if path is not None:
        reports = [{"test": test, **json.loads(text)} for test, _, text in found]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(reports, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _explorations(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, str]]:
    """(test, text, JSON) of every exploration, in the order of the tests' names."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if getattr(report, "when", None) == "call"
    ]
    for report in sorted(reports, key=lambda report: str(report.nodeid)):
        for text, plain in getattr(report, _ATTRIBUTE, ()):
            yield report.nodeid, text, plain
