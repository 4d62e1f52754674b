"""The picture tool as a user starts it."""

from pathlib import Path

import pytest
from PIL import Image
from tools_support import DIGITS, TINY, cli_options, run_tool


def test_writes_a_picture_with_a_row_per_image(tmp_path: Path) -> None:
    for num in (1, 3):
        out = tmp_path / f'{num}.png'
        words = [DIGITS, '--out', out, '--num-images', num]
        printed = run_tool('visualize', *words, *cli_options(TINY))
        assert f'picture: {out}' in printed
    with Image.open(tmp_path / '1.png') as first, Image.open(out) as second:
        assert len(set(second.convert('L').tobytes())) > 50
        assert first.width == second.width and first.height < second.height


KINDS = [
    ('steps', 'steps.gif', TINY['model.train_attack.steps'] + 1),
    ('steps', 'steps.png', 1),
    ('masks', 'masks.jpg', 1),
    ('options', 'options.png', 1),
]


@pytest.mark.parametrize(('show', 'name', 'frames'), KINDS)
def test_each_kind(show: str, name: str, frames: int, tmp_path: Path) -> None:
    out = tmp_path / 'new' / name
    words = [DIGITS, '--out', out, '--show', show, '--num-images', 2]
    run_tool('visualize', *words, *cli_options(TINY))
    with Image.open(out) as picture:
        assert getattr(picture, 'n_frames', 1) == frames
        assert picture.width >= 450 and picture.height >= 400
