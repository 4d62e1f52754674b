"""The scripts and pages of the documentation, for their tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
PAGES += sorted(DOCS.rglob('*.md'))


def numbers(content: Any) -> list[float]:
    """Every number in what a file holds."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [one for value in content for one in numbers(value)]
    number = isinstance(content, (int, float)) and type(content) is not bool
    return [content] if number else []


def load_script(name: str) -> ModuleType:
    """A module of docs/scripts."""
    path = DOCS / 'scripts' / f'{name}.py'
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # they import each other
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
