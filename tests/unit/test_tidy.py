"""The source tree itself is tested: sizes, layout, imports, clocks, docstrings, the wheel, the changelog."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from tests.real import kafka
from tests.unit import public_api

CHECKOUT = Path(__file__).resolve().parents[2]
ROOTS = ("topics", "outbox", "activities", "coordinator", "migrations")
PROGRAMS = ("tests", "examples", "benchmarks")

#: Lines of one file, and of one function with its decorators and docstring.
LONGEST_FILE = 700
LONGEST_FUNCTION = 70

VOCABULARY = frozenset({"clock", "contract", "errors", "failpoints", "ids", "limits", "observe"})

#: The only place that may ask the machine for time, randomness and ids.
CLOCK = CHECKOUT / "topics/segue/clock.py"
#: Module → what of it nobody else may use. `random.Random(seed)` is no question to the machine.
MACHINE: dict[str, frozenset[str]] = {
    "time": frozenset({"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}),
    "datetime.datetime": frozenset({"now", "utcnow", "today"}),
    "datetime.date": frozenset({"today"}),
    "random": frozenset({"random", "uniform", "randint", "randrange", "choice", "choices", "sample", "shuffle", "seed"})
    | frozenset({"getrandbits", "randbytes", "gauss", "expovariate", "triangular", "betavariate", "SystemRandom"}),
    "uuid": frozenset({"uuid1", "uuid4"}),
    "os": frozenset({"urandom", "getrandom"}),
    "secrets": frozenset({"token_bytes", "token_hex", "token_urlsafe", "choice", "randbelow", "randbits"}),
}


def source_files() -> list[Path]:
    return sorted(path for root in ROOTS for path in (CHECKOUT / root).rglob("*.py"))


def python_files() -> list[Path]:
    return source_files() + sorted(path for folder in PROGRAMS for path in (CHECKOUT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def module_of(path: Path) -> str:
    """`segue.topics.codec` of `topics/segue/topics/codec.py`."""
    parts = path.relative_to(CHECKOUT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_root_hides_the_others() -> None:
    assert [name_of(path) for path in CHECKOUT.rglob("segue/__init__.py") if ".venv" not in path.parts] == []


def test_every_package_is_marked_as_typed() -> None:
    packages = {
        path.parent for path in source_files() if path.name == "__init__.py" and path.parents[1].name == "segue"
    }
    assert sorted(name_of(package) for package in packages if not (package / "py.typed").exists()) == []
    assert (CHECKOUT / "topics/segue/py.typed").exists()


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - min([node.lineno, *(d.lineno for d in node.decorator_list)]) >= LONGEST_FUNCTION
    ]
    assert long == []


def test_only_the_clock_module_asks_the_machine() -> None:
    asked = [
        f"{name_of(path)}:{line} {what}"
        for path in source_files()
        if path != CLOCK
        for line, what in questions_to_the_machine(ast.parse(path.read_text()))
    ]
    assert asked == []


def test_questions_to_the_machine_are_found_under_any_name() -> None:
    source = """
import time as t, random, datetime, uuid
from datetime import datetime as dt
from os import urandom
t.monotonic(); random.choice([1]); datetime.datetime.now(); dt.utcnow(); uuid.uuid5(a, b); random.Random(1)
later = t.time
"""
    found = sorted(what for _, what in questions_to_the_machine(ast.parse(source)))
    assert found == [
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "os.urandom",
        "random.choice",
        "time.monotonic",
        "time.time",
    ]


def questions_to_the_machine(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of every banned name that is imported or read as an attribute."""
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meaning.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if alias.name in MACHINE.get(node.module, ()):
                    yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            head, *rest = ast.unparse(node.value).split(".")
            owner = ".".join([meaning.get(head, ""), *rest])
            if node.attr in MACHINE.get(owner, ()):
                yield node.lineno, f"{owner}.{node.attr}"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} relative import"
            found.update(f"segue.{alias.name}" for alias in node.names) if node.module == "segue" else found.add(
                node.module or ""
            )
    return found


def strangers(paths: list[Path], *, allowed: frozenset[str]) -> list[str]:
    """Imports that are neither the standard library's nor below one of `allowed`."""
    return [
        f"{name_of(path)} imports {module}"
        for path in paths
        for module in sorted(imports(path))
        if module.partition(".")[0] not in sys.stdlib_module_names
        and not any(module == name or module.startswith(f"{name}.") for name in allowed)
    ]


def test_the_vocabulary_needs_the_standard_library_alone() -> None:
    words = frozenset(f"segue.{word}" for word in VOCABULARY)
    assert strangers([CHECKOUT / f"topics/segue/{word}.py" for word in sorted(VOCABULARY)], allowed=words) == []
    modules = {path.stem for path in source_files() if path.parent.name == "segue"}
    assert modules == VOCABULARY


def test_the_engine_needs_the_vocabulary_and_msgspec_alone() -> None:
    allowed = frozenset({"msgspec", "segue.saga"}) | {f"segue.{word}" for word in VOCABULARY}
    engine = [path for path in source_files() if module_of(path).startswith("segue.saga")]
    assert engine
    assert strangers(engine, allowed=allowed) == []


def test_one_package_imports_the_kafka_client() -> None:
    users = {module_of(path) for path in source_files() for name in imports(path) if name.startswith("confluent_kafka")}
    assert {user for user in users if not user.startswith("segue.topics.kafka.")} == set()


def test_migrations_import_no_live_code() -> None:
    migrations = [path for path in source_files() if module_of(path).startswith("segue.migrations")]
    allowed = frozenset({"alembic", "sqlalchemy", "segue.migrations"})
    assert strangers(migrations, allowed=allowed) == []


def test_everything_public_has_a_docstring() -> None:
    assert [place for path in source_files() for place in undocumented(path)] == []


def undocumented(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    if ast.get_docstring(tree) is None:
        yield name_of(path)
    if path.parent.name == "versions":
        return  # upgrade() and downgrade() are Alembic's
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            overload = any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)
            if ast.get_docstring(node) is None and not overload:
                yield f"{name_of(path)}:{node.lineno} {node.name}"


def test_the_wheel_contains_the_sources_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if ".dist-info/" not in name}
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    tracked = (path for root in ROOTS for path in (CHECKOUT / root).rglob("*") if path.is_file())
    sources = {"/".join(path.relative_to(CHECKOUT).parts[1:]) for path in tracked if "__pycache__" not in path.parts}
    assert built == sources
    assert licence


def test_the_public_api_is_the_one_on_record() -> None:
    recorded = public_api.RECORD.read_text()
    assert public_api.render() == recorded, "if the change is wanted: make api, and tell it in CHANGELOG.md"


def test_the_changelog_keeps_its_form() -> None:
    lines = (CHECKOUT / "CHANGELOG.md").read_text().splitlines()
    releases = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert lines[0] == "# Changelog"
    assert releases[0] == "[Unreleased]"
    dates = [re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d{2}-\d{2})", release) for release in releases[1:]]
    assert all(dates)
    days = [date.fromisoformat(found[1]) for found in dates if found]
    assert days == sorted(days, reverse=True)
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_links_between_pages_lead_somewhere() -> None:
    pages = [path for path in tracked_files() if path.suffix == ".md"]
    broken = [
        f"{name_of(page)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    assert broken == []


def test_containers_run_the_kafka_that_the_tests_run() -> None:
    assert f"image: apache/kafka:{kafka.VERSION}\n" in (CHECKOUT / "docker-compose.yml").read_text()


def tracked_files() -> list[Path]:
    """What git keeps or would keep."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := CHECKOUT / name).is_file()]


def test_the_tree_names_no_machine_and_leaves_nothing_to_do() -> None:
    # Written so that this file does not contain what it looks for.
    banned = re.compile(
        r"(?<![\w.])/(work|root|home/\w+)/|/opt/[s]egue|\b[T]ODO\b|\b[F]IXME\b|\b[X]XX\b"
        r"|(extra-)?[i]ndex-url|[p]ypi\.org/simple|[a]rtifactory|\b[r]epo1?\.maven"
    )
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not a text
        lines = enumerate(text.splitlines(), 1)
        found += [f"{name_of(path)}:{n} {line.strip()}" for n, line in lines if banned.search(line)]
    assert found == []
