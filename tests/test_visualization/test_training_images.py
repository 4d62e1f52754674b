from functools import partial
from pathlib import Path

import pytest
import torch
from picture_support import EPS, NAMES, Batch, K, N, made, shown, tiny_model
from PIL import Image
from tiny import build_adversarial

from m2at_mm.visualization import TrainingImages, draw_training_images

PANELS = 6  # five images and the text
make = partial(made, TrainingImages)


@pytest.mark.parametrize('scale', [1.0, 2.0])
@pytest.mark.parametrize('mask', ['rectangle', 'pixel', 'patch'])
def test_fields_fit_each_other(digits: Batch, scale: float, mask: str) -> None:
    images, labels = digits
    batch = make(digits, scale=scale, mask=mask, perturbed_label=0.7)
    assert torch.equal(batch.clean, images)
    assert torch.equal(batch.labels, labels) and labels.tolist() == [3, 4, 5]
    model = tiny_model()
    with torch.no_grad():
        clean = model(batch.clean).softmax(1)
        attacked = model(batch.adversarial).softmax(1)
    assert torch.allclose(batch.clean_scores, clean, atol=1e-6)
    assert torch.allclose(batch.adversarial_scores, attacked, atol=1e-6)
    assert not torch.allclose(clean, attacked, atol=1e-6)
    assert batch.threat_model.eps == pytest.approx(EPS)
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
    assert torch.allclose(batch.target.sum(1), torch.ones(N), atol=1e-5)


def test_kept_perturbation_is_free_of_the_other_image(digits: Batch) -> None:
    images, _ = digits
    batch = make(digits, pairing='batch')
    model = tiny_model(method=dict(pairing='batch'))
    # Draw again, after the attack's own draws.
    torch.manual_seed(1)
    adversarial = model.train_attack(model, *digits, model.threat_model)
    mask, ratio, partner = model.method.draw(images)
    change, lam = adversarial - images, ratio.view(-1, 1, 1, 1)
    expected = lam * mask * change
    expected += (1 - lam) * (1 - mask) * change[partner]
    assert torch.allclose(batch.kept, expected, atol=1e-6)
    other = partner != torch.arange(N)
    assert other.any()
    change = (batch.training - images)[other]
    assert (change.abs().amax((1, 2, 3)) > EPS).all()


@pytest.mark.parametrize('method', ['PGDAT', 'TRADES', 'MART'])
def test_methods_that_train_on_the_attack(digits: Batch, method: str) -> None:
    model = tiny_model(method=dict(type=f'm2at_mm.{method}'))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batch = TrainingImages.of(model, *digits)
    assert torch.equal(batch.training, batch.adversarial)
    assert torch.equal(batch.target, torch.eye(K)[batch.labels])
    assert batch.keep_map is None and batch.kept is None
    assert list(batch.columns()) == ['clean', 'perturbation', 'training image']
    assert 'kept' not in batch.describe(0, NAMES)
    figure = draw_training_images(batch)
    assert len(figure.axes) == N * 4
    assert method in figure.get_suptitle()
    # Nothing is left in the model.
    assert all(p.grad is None for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_training_images_of_avmixup_and_iat(digits: Batch) -> None:
    method = dict(type='m2at_mm.AVmixup', gamma=2.0, vertex_label=0.1)
    batch = make(digits, **method)
    own = batch.target[range(N), batch.labels]
    share = ((1 - own) / 0.9).view(-1, 1, 1, 1)  # of the vertex
    assert (share > 0).all() and (share < 1).all()
    vertex = (2 * batch.adversarial - batch.clean).clamp(0, 1)
    expected = (1 - share) * batch.clean + share * vertex
    assert torch.allclose(batch.training, expected, atol=1e-5)
    # IAT mixes labels as the adversarial images.
    batch = make(digits, type='m2at_mm.IAT')
    weights = batch.target[:, batch.labels]
    assert torch.allclose(weights.sum(1), torch.ones(N))
    expected = torch.einsum('ij,jchw->ichw', weights, batch.adversarial)
    assert torch.allclose(batch.training, expected, atol=1e-5)


def test_methods_without_training_images(digits: Batch) -> None:
    standard = tiny_model(method=dict(type='m2at_mm.Standard'))
    batch = TrainingImages.of(standard, *digits)
    assert list(batch.columns()) == ['clean', 'perturbation']
    standard.train_attack = None
    batch = TrainingImages.of(standard, *digits)
    assert list(batch.columns()) == ['clean']
    assert batch.fooled() is None
    lines = batch.describe(1, NAMES).splitlines()
    assert [line.split(':')[0] for line in lines] == ['label', 'clean']
    assert len(draw_training_images(batch).axes) == N * 2


@pytest.mark.parametrize(('norm', 'eps'), [('linf', 0), ('l2', 0.5)])
def test_amplified_perturbations(digits: Batch, norm: str, eps: float) -> None:
    """Grey without a perturbation; under l2 the largest fills the scale."""
    model = build_adversarial(threat_model=dict(norm=norm, eps=eps)).eval()
    panel = TrainingImages.of(model, *digits).columns()['perturbation']
    largest = 0.5 if eps else 0.0
    assert (panel - 0.5).abs().max() == pytest.approx(largest)


ODD = {'$x$ and a very long name indeed': '$x$ and a very …'}
ODD['ice_cream'] = 'ice_cream'


@pytest.mark.parametrize(('name', 'told'), ODD.items())
def test_any_name_can_be_drawn(digits: Batch, name: str, told: str) -> None:
    figure = draw_training_images(make(digits), [name] * K)
    text = figure.axes[PANELS - 1].texts[0]
    assert text.get_text().startswith(f'label: {told}\n')
    # Nothing is cut off, and no sign is taken for a formula.
    figure.canvas.draw()
    box = text.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and box.x0 >= 0


def test_figure(digits: Batch, tmp_path: Path) -> None:
    batch = make(digits, perturbed_label=0.7)
    # Predictions that are known.
    batch.clean_scores = torch.eye(K)[[3, 4, 0]]
    batch.adversarial_scores = torch.eye(K)[[8, 4, 9]]
    assert batch.fooled().tolist() == [True, False, False]
    assert batch.first(2).fooled().tolist() == [True, False]
    figure = draw_training_images(batch, NAMES, note='a note')
    assert len(figure.axes) == N * PANELS
    title = figure.get_suptitle()
    assert 'eps 32/255' in title and 'a note' in title
    changes = batch.adversarial - batch.clean, batch.training - batch.clean
    expected = [batch.clean, batch.keep_map.expand(-1, 3, -1, -1)]
    expected += [(change + EPS) / (2 * EPS) for change in changes]
    expected.append(batch.training)
    share = batch.keep_map.mean((1, 2, 3))
    predicted = [(3, 3, 8), (4, 4, 4), (5, 0, 9)]
    for row, (label, clean, attacked) in enumerate(predicted):
        axes = figure.axes[PANELS * row : PANELS * (row + 1)]
        for axis, images in zip(axes, expected):
            image = images[row].clamp(0, 1)
            assert torch.allclose(shown(axis), image, atol=1e-5)
        assert axes[-1].texts[0].get_text().splitlines() == [
            f'label: digit-{label}',
            f'clean: digit-{clean} 100 %',
            f'attacked: digit-{attacked} 100 %',
            f'kept share: {share[row]:.2f}',
            f'target: digit-{label} {100 - 30 * share[row]:.0f} %',
        ]
    assert batch.describe(0, None).startswith('label: 3\n')
    figure.savefig(tmp_path / 'm2at.png', dpi=40)
    with Image.open(tmp_path / 'm2at.png') as picture:
        assert picture.format == 'PNG'
        assert len(picture.convert('RGB').getcolors(1 << 20) or ()) > 50
