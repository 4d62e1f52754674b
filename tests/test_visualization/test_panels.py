from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from m2at_mm.attacks import ThreatModel
from m2at_mm.visualization import panels


def flat(colour: str) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.set_facecolor(colour)
    return figure


def test_pixels_are_rgb() -> None:
    pixels = panels.figure_pixels(flat('#102030'), dpi=50)
    assert pixels.shape == (50, 100, 3) and pixels.dtype == np.uint8
    assert (pixels == [0x10, 0x20, 0x30]).all()


def test_animation_has_every_frame(tmp_path: Path) -> None:
    colours = ['#ff0000', '#00ff00', '#0000ff']
    path = tmp_path / 'a.gif'
    panels.save_animation([flat(one) for one in colours], path, 50)
    with Image.open(path) as animation:
        assert animation.n_frames == 3
        assert animation.info['loop'] == 0  # for ever
        for index, duration in enumerate([700, 700, 2000]):
            animation.seek(index)
            assert animation.info['duration'] == duration
            shown = animation.convert('RGB').getpixel((50, 25))
            assert '#{:02x}{:02x}{:02x}'.format(*shown) == colours[index]


def test_amplified() -> None:
    change = torch.tensor([-0.2, -0.1, 0.0, 0.05, 0.1])
    expected = torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0])
    assert torch.allclose(panels.amplified(change, 0.1), expected)
    grey = panels.amplified(torch.zeros(3), 0.0)
    assert torch.equal(grey, torch.full((3,), 0.5))


def test_texts() -> None:
    heading, name = panels.heading, panels.class_name
    linf, l2 = ThreatModel('linf', '8/255'), ThreatModel('l2', 0.5)
    assert heading('What', linf, '') == 'What, linf eps 8/255'
    assert heading('What', l2, 'hm') == 'What, l2 eps 127.5/255 (hm)'
    assert name(3, None) == '3' and name(1, ['a', 'b']) == 'b'
    assert name(0, ['great white shark']) == 'great white sha…'
    assert name(0, ['white shark, ray']) == 'white shark, ray'


@pytest.mark.parametrize('channels', [1, 3])
def test_panel(channels: int) -> None:
    axis = Figure().subplots()
    image = torch.rand(channels, 4, 5)
    panels.show(axis, image, 'costs $5, or $6', 'red')
    shown = torch.as_tensor(axis.images[0].get_array())
    assert torch.equal(shown, image.expand(3, 4, 5).permute(1, 2, 0))
    assert axis.get_xlabel() == 'costs $5, or $6'
    assert not axis.xaxis.label.get_parse_math()
