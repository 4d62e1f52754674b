"""The picture tool as a user starts it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tools_support import DIGITS, ROOT, TINY, cli_options, run_tool


def run_inside(
    monkeypatch: pytest.MonkeyPatch, out: Path, *words: Any
) -> None:
    """Start the tool in this process, with tiny attacks."""
    path = str(ROOT / 'tools' / 'visualize.py')
    argv = [path, DIGITS, '--out', out, *words, *cli_options(TINY)]
    monkeypatch.setattr(sys, 'argv', [str(word) for word in argv])
    runpy.run_path(path, run_name='__main__')


def test_writes_a_picture_with_a_row_per_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, three = tmp_path / '1.png', tmp_path / '3.png'
    output = run_tool('visualize', DIGITS, '--out', three, '--num-images', 3)
    assert f'picture: {three}' in output
    run_inside(monkeypatch, one, '--num-images', 1)
    with Image.open(one) as first, Image.open(three) as second:
        assert len(set(second.convert('L').tobytes())) > 50
        assert first.width == second.width and first.height < second.height


@pytest.mark.parametrize(
    ('show', 'name', 'frames'),
    [
        ('steps', 'steps.gif', TINY['model.train_attack.steps'] + 1),
        ('steps', 'steps.png', 1),
        ('masks', 'masks.jpg', 1),
        ('options', 'options.png', 1),
    ],
)
def test_each_kind(
    show: str,
    name: str,
    frames: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / 'pictures' / name
    run_inside(monkeypatch, out, '--show', show, '--num-images', 2)
    with Image.open(out) as picture:
        assert getattr(picture, 'n_frames', 1) == frames
        assert picture.width >= 450 and picture.height >= 400
