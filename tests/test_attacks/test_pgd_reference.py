"""PGD against a closed form, foolbox, and the plainest loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import build_adversarial, classifier_cfg
from torch import Tensor, nn

from m2at_mm.attacks import PGD, ThreatModel, pgd

EPS, SIZE, STEPS = 8 / 255, 2 / 255, 10
LABEL_LOSSES = pytest.mark.parametrize('loss', ['ce', 'margin'])

# A linear model: its worst images are known in closed form.

LABELS = torch.tensor([0, 1, 0, 1, 1])
# +1 where class 1 is the wrong one, as a factor of images.
SIGNS = torch.tensor([[1.0], [-1], [1], [-1], [-1]]).double()


@pytest.fixture
def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """Two classes, the normal w = w_1 - w_0 of the plane between, images."""
    layer = nn.Linear(48, 2).double()
    draw = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=draw)
    normal = (layer.weight[1] - layer.weight[0]).detach()
    images = torch.rand(5, 3, 4, 4, generator=draw, dtype=torch.float64)
    return nn.Sequential(nn.Flatten(), layer), normal, images


@LABEL_LOSSES
@pytest.mark.parametrize('random_start', [False, True])
@pytest.mark.parametrize('norm, dual', [('linf', 1), ('l2', 2)])
def test_reaches_the_optimum_of_a_linear_model(
    linear: tuple, norm: str, dual: int, random_start: bool, loss: str
) -> None:
    model, normal, images = linear
    images = 0.4 + 0.2 * images  # nowhere near the box
    # A random l2 start turns towards the normal by a fifth a step.
    attack = PGD(100 if norm == 'l2' else 10, None, loss, random_start)
    adversarial = attack(model, images, LABELS, ThreatModel(norm, EPS))
    # The margin is +-(w x + b), so it rises by eps times the dual norm of w.
    gain = (SIGNS * (adversarial - images).flatten(1)) @ normal
    expected = EPS * normal.norm(p=dual).item()
    assert gain.tolist() == pytest.approx([expected] * 5, rel=1e-9)


@LABEL_LOSSES
def test_reaches_the_optimum_in_the_box_too(linear: tuple, loss: str) -> None:
    model, normal, images = linear
    images = (1.4 * images - 0.2).clamp(0, 1)  # many at the box, or near
    threat_model = ThreatModel('linf', 0.2)
    adversarial = pgd(model, images, LABELS, threat_model, loss=loss)
    best = images.flatten(1) + 0.2 * SIGNS * normal.sign()
    assert (best < 0).any() and (best > 1).any()
    best = best.clamp(0, 1).view_as(images)
    assert torch.allclose(adversarial, best, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ('model', 'eps'),
    [
        ('robust_model', 8 / 255),
        pytest.param('undefended_model', 0.5 / 255, marks=pytest.mark.slow),
    ],
)
def test_accuracy_is_that_under_foolboxs_pgd(
    model: str, eps: float, request: Any, cifar10_images: Callable
) -> None:
    foolbox = pytest.importorskip('foolbox')
    network, step_size = request.getfixturevalue(model), eps / 4
    settings = dict(steps=10, abs_stepsize=step_size, random_start=True)
    reference = foolbox.attacks.LinfPGD(**settings)
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1))
    torch.manual_seed(0)
    attack, threat_model = PGD(10, step_size), ThreatModel('linf', eps)
    correct = torch.zeros(3)
    for part, target in zip(*(of.split(50) for of in cifar10_images(200))):
        ours = attack(network, part, target, threat_model)
        _, theirs, _ = reference(wrapped, part, target, epsilons=eps)
        for k, candidates in enumerate((part, ours, theirs)):
            correct[k] += (network(candidates).argmax(1) == target).sum()
    clean, ours, theirs = (100 * correct / 200).tolist()
    assert 20 < theirs < clean - 20
    assert ours == pytest.approx(theirs, abs=1.5)


def test_the_plain_loop(robust_model: Any, cifar10_images: Any) -> None:
    """All that makes the attack fast at once: the whole classifier in single
    precision, convolutions that do the work of batch norms, channels-last
    batches, in-place steps, images alone differentiated.
    """
    model = build_adversarial(
        classifier=classifier_cfg(base_channels=8, stem_channels=8),
        train_attack=dict(type='m2at_mm.PGD', steps=STEPS, step_size='2/255'),
        # The weights were trained on images in [0, 1].
        data_preprocessor=dict(mean=[0] * 3, std=[255] * 3, num_classes=10),
    )
    model.load_state_dict(robust_model.state_dict())
    images, labels = cifar10_images(64)
    fast = images.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    found = model.train().train_attack(model, fast, labels, model.threat_model)
    torch.manual_seed(0)
    noise = torch.empty_like(fast).uniform_(-EPS, EPS)
    adversarial = (images + noise).clamp(0, 1)
    for _ in range(STEPS):
        leaf = adversarial.contiguous().detach().requires_grad_(True)
        loss = F.cross_entropy(robust_model(leaf), labels, reduction='sum')
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved = adversarial + SIZE * gradient.sign()
        adversarial = images + (moved - images).clamp(-EPS, EPS)
        adversarial = adversarial.clamp(0, 1)
    # Rounding turns the sign of a gradient that is nearly zero.
    same = ((found - adversarial).abs() < 1e-6).float().mean()
    assert same > 0.99

    def mean_loss(of: Tensor) -> float:
        return F.cross_entropy(robust_model(of), labels).item()

    assert mean_loss(found) > 1.3 * mean_loss(images)  # it does attack
    assert mean_loss(found) == pytest.approx(mean_loss(adversarial), rel=1e-3)
