"""`segue config`: every setting, its value and where it comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli.invocation import Invocation, command
from segue.settings.load import PROPERTIES
from segue.settings.masking import shown_property
from segue.settings.reference import settings_page
from segue.settings.values import declared


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "config")(show_settings)


def show_settings(
    run: Invocation,
    doc: Annotated[bool, typer.Option("--doc", help="Print the reference of all settings (Markdown) instead.")] = False,
) -> None:
    """Print every setting, its value and where it comes from; secrets are masked."""
    if doc:
        run.out.page(settings_page())
        return
    rows = _rows(run)
    if run.out.json:
        run.out.document({"settings": [{"name": n, "value": v, "source": s, "from": f} for n, v, s, f in rows]})
    else:
        run.out.table(
            ("setting", "value", "from"), [(name, value, source or kind) for name, value, kind, source in rows]
        )


def _rows(run: Invocation) -> list[tuple[str, str, str, str]]:
    """(name, masked value, kind of origin, its name)."""
    loaded = run.loaded
    rows: list[tuple[str, str, str, str]] = []
    for key, setting in declared().items():
        origin = loaded.origins[key]
        value = loaded.value(key)
        if key != PROPERTIES:
            rows.append((key, setting.shown(value), origin.kind, origin.name))
            continue
        for name, single in value.items():
            origin = loaded.origins[f"{key}.{name}"]
            rows.append((f"{key}.{name}", shown_property(name, single), origin.kind, origin.name))
    return rows
