"""What users may rely on, as one text: `python -m tests.unit.public_api` writes it to `public_api.txt`.

Names, parameters and their kinds are locked; annotations are not (the typing test holds them), nor are defaults.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

RECORD = Path(__file__).with_suffix(".txt")

#: The modules that users import from; everything else may change at any time.
PUBLIC = (
    "segue.contract",
    "segue.errors",
    "segue.saga",
    "segue.activities",
    "segue.outbox",
    "segue.client",
    "segue.testing",
    "segue.topics",
)


def render() -> str:
    """The public API, one name a line, sorted within each module."""
    lines: list[str] = []
    for name in PUBLIC:
        if importlib.util.find_spec(name) is not None:
            module = importlib.import_module(name)
            lines += [f"{name}.{line}" for public in sorted(public_names(module)) for line in describe(public, module)]
    return "\n".join(lines) + "\n"


def public_names(module: ModuleType) -> list[str]:
    """`__all__`, or else the classes and functions that the module defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def describe(name: str, owner: ModuleType) -> Iterator[str]:
    """One line for a name, and for a class one for each of its public members."""
    value = getattr(owner, name)
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"{name}({bases}){f': {parameters(value)}' if makes_itself(value) else ''}"
        for member in sorted(members(value)):
            attribute = inspect.getattr_static(value, member)
            function = getattr(attribute, "__func__", attribute)
            yield f"{name}.{member}{parameters(function) if callable(function) else ''}"
    elif callable(value):
        yield f"{name}{parameters(value)}"
    else:
        yield name


def makes_itself(kind: type[Any]) -> bool:
    """Whether the constructor is the package's own; those of Python's classes differ from version to version."""
    if getattr(kind, "_is_protocol", False):
        return False
    ours = [base for base in kind.__mro__ if base.__module__.partition(".")[0] == "segue"]
    return hasattr(kind, "__struct_fields__") or any(vars(base).keys() & {"__init__", "__new__"} for base in ours)


def members(kind: type[Any]) -> set[str]:
    """Public attributes of a class and of its bases within the package."""
    ours = [base for base in kind.__mro__ if base.__module__.partition(".")[0] == "segue"]
    return {name for base in ours for name in vars(base) if not name.startswith("_")}


def parameters(function: Any) -> str:
    """`(a, b=, *, c=)`: names, kinds, and whether there is a default."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(…)"
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    shown = [
        parameter if parameter.default is parameter.empty else parameter.replace(default=_Any()) for parameter in bare
    ]
    return str(inspect.Signature(shown)).replace("=…", "=")


class _Any:
    def __repr__(self) -> str:
        return "…"


if __name__ == "__main__":
    RECORD.write_text(render())
