"""The package itself."""

import subprocess
import sys

import pytest

import m2at_mm


def test_parts_come_when_they_are_asked_for() -> None:
    code = 'import sys, m2at_mm; before = "mmpretrain" in sys.modules; '
    code += 'assert not before; m2at_mm.recipes.apply_recipe'
    subprocess.run([sys.executable, '-c', code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'recipe'"):
        m2at_mm.recipe  # noqa: B018
