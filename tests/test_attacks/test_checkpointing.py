from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from mmengine.runner import activation_checkpointing
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing,
)
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from tiny import adversarial_cfg, build_adversarial, classifier_cfg
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, differentiable_checkpoints, pgd
from m2at_mm.registry import MODELS

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([3, 1, 4, 1])
SWIN = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
        img_size=32,
        pad_small_map=True,
        drop_path_rate=0.0,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)


def configs(with_cp: bool) -> dict[str, dict]:
    resnet, swin = classifier_cfg(), {**SWIN}
    resnet['backbone'] = dict(resnet['backbone'], with_cp=with_cp)
    swin['backbone'] = dict(SWIN['backbone'], with_cp=with_cp)
    return dict(resnet=resnet, swin=swin)


def build(cfg: dict, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = MODELS.build(adversarial_cfg(classifier=cfg, **settings))
    model.init_weights()
    return model


def attacked(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    threat = ThreatModel()
    return pgd(model, IMAGES, LABELS, threat, steps=2, generator=generator)


@pytest.mark.parametrize('network', ['resnet', 'swin'])
def test_same_attack_and_gradients_with_checkpointing(network: str) -> None:
    plain = build(configs(with_cp=False)[network]).train()
    saving = build(configs(with_cp=True)[network]).train()
    assert torch.equal(attacked(saving), attacked(plain))
    gradients = []
    for model in (plain, saving):
        torch.manual_seed(1)
        losses = model(IMAGES, _samples(), mode='loss')
        # As adversarial weight perturbation takes them.
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(losses['loss'], weights))
    for expected, found in zip(*gradients):
        torch.testing.assert_close(found, expected)


def test_checkpointing_by_the_runners_setting() -> None:
    plain, saving = build_adversarial().eval(), build_adversarial().eval()
    turn_on_activation_checkpointing(saving, ['backbone.layer1'])
    assert torch.equal(attacked(saving), attacked(plain))


def test_the_functions_are_put_back_also_after_an_error() -> None:
    places = (torch.utils.checkpoint, activation_checkpointing)
    before = [place.checkpoint for place in places]
    with pytest.raises(ZeroDivisionError), differentiable_checkpoints():
        assert all(p.checkpoint is not b for p, b in zip(places, before))
        with differentiable_checkpoints():  # an attack inside the loss
            pass
        raise ZeroDivisionError
    assert [place.checkpoint for place in places] == before


def test_stock_training_keeps_its_own_form() -> None:
    """The change is ours alone, not one of the whole process."""
    stock = MMPRETRAIN_MODELS.build(configs(with_cp=True)['resnet']).train()
    attacked(build(configs(with_cp=True)['resnet']))
    images = IMAGES.clone().requires_grad_()
    loss = stock(images).sum()
    with pytest.raises(RuntimeError, match='checkpoint'):
        torch.autograd.grad(loss, images)


def _samples() -> list[Any]:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(label) for label in LABELS]
