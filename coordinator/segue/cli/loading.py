"""Finding the user's own sagas and workers: `module`, or `module:attribute`, seen from the current directory."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from segue.contract import Activity
from segue.errors import ConfigError, SegueError
from segue.saga.definition import Registry, SagaDefinition


def load_sagas(specs: Iterable[str]) -> Registry:
    """All sagas that these specs name. Raises ConfigError where there are none, or one can't be imported."""
    registry = Registry()
    for spec in specs:
        module_name, _, attribute = spec.partition(":")
        module = import_module(module_name)
        if attribute:
            found = [_attribute(module, attribute)]
            if not isinstance(found[0], SagaDefinition):
                raise ConfigError(f"{spec} is a {type(found[0]).__name__}, not a saga (an `async def` under `@saga`)")
        else:
            found = [value for value in vars(module).values() if isinstance(value, SagaDefinition)]
            if not found:
                raise ConfigError(f"the module {module_name} has no sagas (an `async def` under `@saga`)")
        for definition in found:
            registry.add(definition)
    if not len(registry):
        raise ConfigError('coordinator.sagas is empty; name modules with sagas, like sagas = ["shop.sagas"]')
    return registry


def load_attribute(spec: str, what: str) -> Any:
    """The object that `module:attribute` names. Raises ConfigError."""
    module_name, colon, attribute = spec.partition(":")
    if not colon or not attribute:
        raise ConfigError(f"{spec!r} does not name {what}; write it as module:attribute")
    return _attribute(import_module(module_name), attribute)


def import_module(name: str) -> ModuleType:
    """Import a module of the user's; the current directory comes first, as with `python -m`."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"there is no module {name} (seen from {here})") from error
        raise ConfigError(f"the module {name} needs {error.name}, which is not installed") from error
    except SegueError as error:
        raise ConfigError(f"the module {name} can't be used: {error} ({_where(error)})") from error
    except Exception as error:
        raise ConfigError(
            f"the module {name} raises {type(error).__name__} when imported: {error} ({_where(error)})"
        ) from error


def services_of(definitions: Iterable[SagaDefinition[Any, Any]]) -> list[str]:
    """The services whose activities these sagas' modules know: what a plan of topics needs."""
    services = {
        activity.service for definition in definitions for activity in _activities(definition.function.__globals__)
    }
    return sorted(services)


def _activities(names: dict[str, Any]) -> Iterator[Activity[Any, Any]]:
    for value in list(names.values()):
        if isinstance(value, Activity):
            yield value
        elif isinstance(value, ModuleType):
            # `import contracts`, then `contracts.charge`.
            yield from (inner for inner in vars(value).values() if isinstance(inner, Activity))


def _attribute(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"the module {module.__name__} has no {name}{hint}")
        found = getattr(found, part)
    return found


def _where(error: BaseException) -> str:
    """The last place in the user's own code: file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_file() and "importlib" not in frame.filename]
    last = own[-1] if own else frames[-1]
    return f"{last.filename}, line {last.lineno}"
