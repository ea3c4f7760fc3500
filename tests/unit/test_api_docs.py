"""The reference of the Python API is generated, and has every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text("utf-8")


def test_every_public_name_is_in_the_generated_reference(tmp_path: Path) -> None:
    [line] = re.findall(r"^API := (.*)$", MAKEFILE, re.MULTILINE)
    [options] = re.findall(r"-m pdoc (.*) --output-directory build/docs", MAKEFILE)
    modules = line.split()
    command = [sys.executable, "-m", "pdoc", *options.split(), "--output-directory", str(tmp_path), *modules]
    subprocess.run(command, check=True, capture_output=True)
    for module in modules:
        page = (tmp_path / f"{module.replace('.', '/')}.html").read_text("utf-8")
        public = getattr(import_module(module), "__all__", ())
        assert [name for name in public if f'id="{name}"' not in page] == [], module
