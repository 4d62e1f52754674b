from pathlib import Path

import pytest
import torch
from tiny import adversarial_cfg, build_adversarial, classifier_cfg

from m2at_mm.attacks import PGD, ThreatModel, Transfer
from m2at_mm.registry import TASK_UTILS


@pytest.fixture()
def checkpoint(tmp_path: Path) -> str:
    model = build_adversarial(seed=1)
    path = tmp_path / 'surrogate.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return str(path)


def test_images_are_those_against_the_surrogate(checkpoint: str) -> None:
    cfg = dict(type='m2at_mm.Transfer', checkpoint=checkpoint)
    attack = dict(type='m2at_mm.PGD', steps=3)
    cfg |= dict(surrogate=adversarial_cfg(), attack=attack)
    transfer = TASK_UTILS.build(cfg)
    surrogate = build_adversarial(seed=1).eval()
    batch = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2]), ThreatModel()
    torch.manual_seed(5)
    expected = PGD(steps=3)(surrogate, *batch)
    torch.manual_seed(5)

    def attacked(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError('the attacked model is not asked')

    found = transfer(attacked, *batch, stop_when_fooled=True)
    assert torch.equal(found, expected)


def test_default_attack_and_checkpoint_of_another(checkpoint: str) -> None:
    attack = Transfer(adversarial_cfg(), checkpoint).attack
    assert isinstance(attack, PGD) and attack.steps == 20
    other = adversarial_cfg(classifier=classifier_cfg(base_channels=8))
    with pytest.raises(ValueError, match='does not fit the surrogate'):
        Transfer(other, checkpoint)
