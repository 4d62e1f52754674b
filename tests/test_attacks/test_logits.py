from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, PGD, AutoAttack, ThreatModel
from m2at_mm.attacks.logits import NO_LABEL, logits_of, predicted_labels


class Squeezing(nn.Module):
    """Drops the batch of one image, as mmpretrain's LeNet-5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        # The brightest channel is the class.
        self.linear.weight.data = 20 * torch.eye(5, 3)
        self.linear.bias.data.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3)).squeeze())


@pytest.mark.parametrize('num', [1, 2, 5])
def test_a_squeezed_batch_is_a_batch_again(num: int) -> None:
    model = Squeezing()
    images = torch.rand(num, 3, 4, 4)
    expected = images.mean((2, 3)) @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(logits_of(model, images), expected)


@pytest.mark.parametrize(
    'attack',
    [PGD(steps=3, restarts=2), FGSM(), AutoAttack(['apgd-ce'])],
    ids=['pgd', 'fgsm', 'autoattack'],
)
def test_one_image_is_attacked_as_among_others(attack: PGD) -> None:
    """Also where the others are fooled already and leave the batch."""
    model, images = Squeezing(), torch.rand(3, 3, 4, 4)
    labels = model(images).argmax(1)
    labels[1:] = (labels[1:] + 1) % 5
    threat = ThreatModel('linf', 0.4)
    for batch in (slice(1), slice(3)):
        adversarial = attack(
            model, images[batch], labels[batch], threat, stop_when_fooled=True
        )
        attacked = model(torch.cat([adversarial, images]))
        assert attacked[0].argmax() != labels[0]


NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize(
    ('logits', 'label'),
    [
        ([0.0, 2.0, 1.0], 1),
        ([NAN, 2.0, 1.0], NO_LABEL),
        ([0.0, NAN, 1.0], NO_LABEL),
        ([INF, 2.0, 1.0], NO_LABEL),
        ([0.0, 2.0, -INF], NO_LABEL),
    ],
    ids=str,
)
def test_what_is_not_finite_predicts_nothing(
    logits: list[float], label: int
) -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0], logits])
    assert predicted_labels(rows).tolist() == [0, label]
