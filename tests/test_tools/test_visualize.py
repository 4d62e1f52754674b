"""The picture tool as a user starts it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from tools_support import DIGITS, ROOT, TINY, cli_options, run_tool


def test_writes_a_picture_with_a_row_per_image(tmp_path: Path) -> None:
    sizes = []
    for rows in (1, 3):
        out = tmp_path / f'{rows}.png'
        output = run_tool(
            'visualize', DIGITS, '--out', out, '--num-images', rows
        )
        assert f'picture: {out}' in output
        with Image.open(out) as picture:
            sizes.append(picture.size)
            assert len(set(picture.convert('L').tobytes())) > 50
    assert sizes[1][0] == sizes[0][0] and sizes[1][1] > sizes[0][1]


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
    words = [DIGITS, '--show', show, '--out', out, '--num-images', 2]
    path = str(ROOT / 'tools' / 'visualize.py')
    argv = [path, *map(str, words), *cli_options(TINY)]
    monkeypatch.setattr(sys, 'argv', argv)
    runpy.run_path(path, run_name='__main__')
    with Image.open(out) as picture:
        assert getattr(picture, 'n_frames', 1) == frames
        assert picture.width >= 450 and picture.height >= 400
