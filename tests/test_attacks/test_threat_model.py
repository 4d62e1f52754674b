import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from m2at_mm.attacks import ThreatModel, parse_pixels

EPS = 8 / 255
EPSILONS = [k / 255 for k in (0.5, 1, 2, 3, 4, 8, 12, 16, 31, 32, 64)]
EPSILONS += [0.1, 1e-3, 1e-7, 1.0]
FORMATS = [torch.contiguous_format, torch.channels_last]
NORMS = pytest.mark.parametrize('norm', ['linf', 'l2'])
FLOATS = [torch.float32, torch.float64]
DTYPES = pytest.mark.parametrize('dtype', FLOATS, ids=str)


def images_of_every_kind(dtype: torch.dtype = torch.float32) -> Tensor:
    """Black, white, grey, 8-bit, random and nearly black or white images."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 8, 8, generator=draw, dtype=dtype)
    levels = torch.arange(256, dtype=dtype) / 255
    images = [torch.full_like(noise, level) for level in (0, 1, 0.5)]
    images += [part.view(noise.shape) for part in (levels[64:], levels[:192])]
    return torch.cat([*images, noise, noise * 0.04, 1 - noise * 0.04])


def noise_like(images: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(images.shape, generator=draw, dtype=images.dtype)


def sizes(norm: str, change: Tensor) -> Tensor:
    order = torch.inf if norm == 'linf' else 2
    return change.flatten(1).norm(p=order, dim=1)


SIZES = {'8/255': EPS, ' 8 / 255 ': EPS, EPS: EPS, '0.03': 0.03, '1e-3': 1e-3}
SIZES |= {0: 0.0, '0/255': 0.0, 1: 1.0, '255/255': 1.0}
WRONG = [8, '8', 2, '1.5', math.nan, 'nan', math.inf, 'inf/255', 10**400]
WRONG += [-8 / 255, '-8/255', 'abc', '', '8/0', '8/2/2']
REFUSED = [*WRONG, True, None, [8, 255]]


@pytest.mark.parametrize('value', SIZES, ids=repr)
def test_eps_is_read(value: Any) -> None:
    assert parse_pixels(value, 'step_size') == SIZES[value]
    for norm in ('linf', 'l2'):
        assert ThreatModel(norm, value).eps == SIZES[value]


@pytest.mark.parametrize('value', REFUSED, ids='{!r:.9}'.format)
@NORMS
def test_eps_is_refused(norm: str, value: Any) -> None:
    error = ValueError if any(value is one for one in WRONG) else TypeError
    with pytest.raises(error) as caught:
        ThreatModel(norm, value)
    message = str(caught.value)
    assert message.startswith('eps')
    assert repr(value) in message
    assert '/255' in message


def test_what_a_refusal_says() -> None:
    with pytest.raises(ValueError, match="write '8/255'"):
        ThreatModel('linf', 8)
    with pytest.raises(ValueError, match=r"eps='765/255'.*at most '255/255'"):
        ThreatModel('linf', '765/255')
    with pytest.raises(ValueError, match=r"norm='l1'.*'linf', 'l2'"):
        ThreatModel('l1')


def test_results_and_repr_name_norm_and_radius() -> None:
    threat_model = ThreatModel('l2', '128/255')
    assert threat_model.to_dict() == {'norm': 'l2', 'eps': 128 / 255}
    assert repr(threat_model) == "ThreatModel(norm='l2', eps='128/255')"
    assert threat_model.with_eps(3.0).to_dict() == {'norm': 'l2', 'eps': 3.0}
    assert threat_model.eps == 128 / 255
    assert ThreatModel('l2', '765/255').eps == 3


@pytest.mark.parametrize('memory', FORMATS, ids=str)
@DTYPES
@pytest.mark.parametrize('eps', [*EPSILONS, 0.0, 3.0], ids='eps={:.3g}'.format)
@NORMS
def test_start_step_and_project_are_inside_exactly(
    norm: str, eps: float, dtype: torch.dtype, memory: torch.memory_format
) -> None:
    images = images_of_every_kind(dtype).contiguous(memory_format=memory)
    ball = ThreatModel(norm).with_eps(eps).ball(images)
    direction = noise_like(images)
    drawn = ball.random_start(torch.Generator().manual_seed(2))
    for result in (
        drawn,
        ball.step(images, direction, eps),
        ball.step(drawn, direction, eps / 4),
        ball.step(drawn, drawn - images, eps),  # outwards
        ball.project(images + 10 * direction),
        ball.project(1 - images),
        ball.project(images + direction.sign() * (eps * 1.000001)),
    ):
        assert result.dtype == images.dtype and result.shape == images.shape
        assert result.min() >= 0 and result.max() <= 1
        for kind in {dtype, torch.float64}:
            change = result.to(kind) - images.to(kind)
            largest = sizes(norm, change).max().item()
            assert largest <= eps
            assert np.float32(largest) <= np.float32(eps)
        assert ball.contains(result).all()


@DTYPES
@pytest.mark.parametrize('eps', EPSILONS, ids='eps={:.3g}'.format)
def test_linf_projection_is_nearest(eps: float, dtype: torch.dtype) -> None:
    images = images_of_every_kind(dtype)
    point = images + 2 * eps * noise_like(images)
    exact, wide = images.double().numpy(), point.double().numpy()
    nearest = np.clip(np.clip(wide, exact - eps, exact + eps), 0, 1)
    result = ThreatModel('linf', eps).ball(images).project(point)
    # The radius and then the bound are rounded, each by one unit at most.
    kind = point.numpy().dtype.type
    unit = np.spacing((exact + eps).astype(kind)) + np.spacing(kind(eps))
    assert (np.abs(result.double().numpy() - nearest) <= unit).all()
    inside = torch.from_numpy(wide == nearest)
    inside &= (point - images).abs() < eps
    assert inside.any() and torch.equal(result[inside], point[inside])


@DTYPES
def test_l2_projection_is_nearest(dtype: torch.dtype) -> None:
    eps = 0.3
    images = 0.4 + 0.2 * images_of_every_kind(dtype)
    change = noise_like(images)
    length = change.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    wanted = torch.linspace(0.1, 2, len(images)).double().view(-1, 1, 1, 1)
    point = images + (change / length * wanted).to(dtype)
    result = ThreatModel('l2', eps).ball(images).project(point)
    inside = wanted.flatten() <= eps
    assert inside.any() and torch.equal(result[inside], point[inside])
    moved = images.double() + change / length * wanted.clamp(max=eps)
    tolerance = 16 * torch.finfo(dtype).eps
    assert torch.allclose(result.double(), moved, rtol=0, atol=tolerance)


@pytest.mark.parametrize('scale', [1, 1e-10, 1e-20, 1e-30, 1e-38, 1e30])
@NORMS
def test_step_has_its_length_for_any_gradient(norm: str, scale: float) -> None:
    images = torch.full((4, 3, 8, 8), 0.5)
    gradient = noise_like(images) * scale
    moved = ThreatModel(norm, 0.5).ball(images).step(images, gradient, 0.1)
    change = (moved - images).double().flatten(1)
    length = sizes(norm, change)
    assert torch.allclose(length, length.new_tensor(0.1), atol=1e-6)
    wanted = (gradient.double() / scale).flatten(1)
    along = torch.cosine_similarity(change, wanted)
    # A random direction and its signs have cosine sqrt(2 / pi) = 0.80.
    assert (along > (0.75 if norm == 'linf' else 0.9999)).all()


@NORMS
def test_zero_gradient_moves_nothing(norm: str) -> None:
    images = images_of_every_kind()
    gradient = noise_like(images)
    gradient[::2] = 0
    moved = ThreatModel(norm, EPS).ball(images).step(images, gradient, EPS)
    assert torch.equal(moved[::2], images[::2])
    assert moved.isfinite().all()
    assert (moved != images).flatten(1).any(1)[1::2].all()


def test_linf_random_start_is_uniform() -> None:
    images = torch.full((100, 1, 32, 32), 0.5)
    draw = torch.Generator().manual_seed(0)
    start = ThreatModel('linf', EPS).ball(images).random_start(draw)
    change = ((start - images).double() / EPS).flatten()
    share = change.sort().values
    expected = torch.linspace(-1, 1, len(share), dtype=torch.float64)
    # Kolmogorov-Smirnov: 2 / sqrt(n) is beyond the 0.1 % level.
    assert ((share - expected).abs() / 2).max() < 2 / math.sqrt(len(share))
    # Pixels are drawn independently of each other.
    pairs = change.view(-1, 2)
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 0.01


@pytest.mark.parametrize('dimensions', [1, 2, 3, 8])
def test_l2_random_start_is_uniform(dimensions: int) -> None:
    images = torch.full((20000, dimensions, 1, 1), 0.5)
    draw = torch.Generator().manual_seed(0)
    start = ThreatModel('l2', 0.25).ball(images).random_start(draw)
    change = (start - images).double().flatten(1) / 0.25
    radius = change.norm(dim=1)
    for part in (0.2, 0.5, 0.8, 0.95):
        share = (radius <= part).double().mean().item()
        assert share == pytest.approx(part**dimensions, abs=0.015)
    assert change.mean(0).abs().max() < 0.03
    # By symmetry half of the ball is on either side of each plane.
    assert ((change > 0).double().mean(0) - 0.5).abs().max() < 0.02


@pytest.mark.parametrize(
    'norm, clean, edge, longer',
    [
        ('linf', 0.5, 0.25, 1),
        ('linf', 0.5, -0.25, 1),
        # Four equal changes are twice as long as one.
        ('l2', 0.5, 0.125, 2),
        ('linf', 0.0, 0.0, 1),  # the box
        ('l2', 1.0, 0.0, 2),
    ],
)
def test_edge(norm: str, clean: float, edge: float, longer: int) -> None:
    """Of what a ball contains."""
    images = torch.full((3, 1, 2, 2), clean, dtype=torch.float64)
    ball = ThreatModel(norm, 0.25).ball(images)
    outwards = 1.0 if edge > 0 or clean == 1 else -1.0
    beyond = np.nextafter(np.float32(edge), np.float32(outwards)).item()
    adversarial = images.clone()
    adversarial[1] += edge
    adversarial[2] += beyond if edge else 1e-7 * outwards
    assert ball.contains(adversarial).tolist() == [True, True, False]
    assert ball.distance(adversarial)[1].item() == abs(edge) * longer
