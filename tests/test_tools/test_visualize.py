"""The picture tool as a user starts it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from tools_support import DIGITS, run_tool


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
