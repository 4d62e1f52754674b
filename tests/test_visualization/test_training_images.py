from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import build_adversarial
from torch import Tensor

from m2at_mm.datasets import Digits
from m2at_mm.visualization import TrainingImages, draw_training_images

N, K = 3, 10
EPS = 32 / 255
NAMES = [f'digit-{k}' for k in range(K)]
PANELS = 6  # five images and the text


def tiny_model(**method: Any) -> Any:
    return build_adversarial(
        method=dict(dict(type='m2at_mm.M2AT'), **method),
        threat_model=dict(norm='linf', eps='32/255'),
    ).eval()


@pytest.fixture(scope='module')
def digits() -> tuple[Tensor, Tensor]:
    dataset = Digits(split='test', indices=2 * N)
    samples = [dataset[k] for k in range(N, 2 * N)]
    images = torch.stack(
        [
            torch.from_numpy(sample['img']).permute(2, 0, 1)
            for sample in samples
        ]
    )
    return images / 255, torch.tensor([s['gt_label'] for s in samples])


def make(digits: tuple[Tensor, Tensor], **method: Any) -> TrainingImages:
    model = tiny_model(**method)
    torch.manual_seed(1)
    return TrainingImages.of(model, *digits)


@pytest.mark.parametrize('scale', [1.0, 2.0])
@pytest.mark.parametrize('mask', ['rectangle', 'pixel', 'patch'])
def test_fields_fit_each_other(
    digits: tuple[Tensor, Tensor], scale: float, mask: str
) -> None:
    images, labels = digits

    batch = make(digits, scale=scale, mask=mask, perturbed_label=0.7)

    assert torch.equal(batch.clean, images)
    assert torch.equal(batch.labels, labels) and labels.tolist() == [3, 4, 5]
    assert batch.eps == pytest.approx(EPS)
    assert batch.keep_map.shape == (N, 1, 32, 32)
    assert batch.keep_map.min() >= 0 and batch.keep_map.max() <= 1
    perturbation = batch.adversarial - images
    assert perturbation.abs().max() <= EPS + 1e-7
    assert perturbation.abs().flatten(1).amax(1).min() > EPS / 2
    training = (images + scale * batch.keep_map * perturbation).clamp(0, 1)
    assert torch.allclose(batch.training, training, atol=1e-6)
    assert not torch.allclose(batch.training, batch.adversarial, atol=1e-3)
    share = batch.keep_map.mean((1, 2, 3))
    own = batch.target.gather(1, labels[:, None])[:, 0]
    assert torch.allclose(own, 1 - 0.3 * share, atol=1e-6)
    for probabilities in (
        batch.target,
        batch.clean_scores,
        batch.adversarial_scores,
    ):
        assert probabilities.shape == (N, K)
        assert torch.allclose(probabilities.sum(1), torch.ones(N), atol=1e-5)


def test_scores_are_the_models(digits: tuple[Tensor, Tensor]) -> None:
    batch = make(digits)

    model = tiny_model()
    with torch.no_grad():
        clean = model(batch.clean).softmax(1)
        adversarial = model(batch.adversarial).softmax(1)
    assert torch.allclose(batch.clean_scores, clean, atol=1e-6)
    assert torch.allclose(batch.adversarial_scores, adversarial, atol=1e-6)
    assert not torch.allclose(clean, adversarial, atol=1e-6)


@pytest.mark.parametrize('method', ['PGDAT', 'Standard'])
def test_method_without_masks(
    digits: tuple[Tensor, Tensor], method: str
) -> None:
    model = tiny_model(type=f'm2at_mm.{method}')

    with pytest.raises(ValueError, match=rf'{method} has no masks.*M2AT'):
        TrainingImages.of(model, *digits)


def test_figure_has_a_row_per_image(digits: tuple[Tensor, Tensor]) -> None:
    batch = make(digits, perturbed_label=0.7)
    # Predictions that are known.
    batch.clean_scores = torch.eye(K)[[3, 4, 0]]
    batch.adversarial_scores = torch.eye(K)[[8, 4, 9]]

    figure = draw_training_images(batch, NAMES, note='a note')

    assert len(figure.axes) == N * PANELS
    title = figure.get_suptitle()
    assert 'eps 32/255' in title and 'a note' in title
    texts = [
        axis.texts[0].get_text() for axis in figure.axes[PANELS - 1 :: PANELS]
    ]
    share = batch.keep_map.mean((1, 2, 3))
    for row, (label, clean, attacked) in enumerate(
        [(3, 3, 8), (4, 4, 4), (5, 0, 9)]
    ):
        lines = texts[row].splitlines()
        assert lines == [
            f'label: digit-{label}',
            f'clean: digit-{clean} 100 %',
            f'attacked: digit-{attacked} 100 %',
            f'kept share: {share[row]:.2f}',
            f'target: digit-{label} {100 - 30 * share[row]:.0f} %',
        ]


def test_figure_shows_the_images(digits: tuple[Tensor, Tensor]) -> None:
    batch = make(digits)

    figure = draw_training_images(batch)

    perturbation = batch.adversarial - batch.clean
    kept = batch.training - batch.clean
    for row in range(N):
        shown = [
            torch.as_tensor(axis.images[0].get_array()).permute(2, 0, 1)
            for axis in figure.axes[PANELS * row : PANELS * (row + 1) - 1]
        ]
        expected = [
            batch.clean[row],
            batch.keep_map[row].expand(3, -1, -1),
            (perturbation[row] + EPS) / (2 * EPS),
            (kept[row] + EPS) / (2 * EPS),
            batch.training[row],
        ]
        for panel, image in zip(shown, expected):
            assert torch.allclose(panel, image.clamp(0, 1), atol=1e-5)
    text = figure.axes[PANELS - 1].texts[0].get_text()
    assert text.startswith('label: 3\n')  # the number without names


def test_picture_is_saved(
    digits: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    figure = draw_training_images(make(digits), NAMES)

    figure.savefig(tmp_path / 'm2at.png', dpi=40)

    with Image.open(tmp_path / 'm2at.png') as picture:
        assert picture.format == 'PNG'
        colours = picture.convert('RGB').getcolors(1 << 20)
        assert colours is not None and len(colours) > 50
