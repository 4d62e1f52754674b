from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from tiny import adversarial_cfg, build_adversarial, classifier_cfg
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, pgd
from m2at_mm.cli import load_config
from m2at_mm.registry import MODELS

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, 224, 224, generator=DRAW)
LABELS = torch.tensor([3, 1, 4, 1])
# Networks with two heads, and the weight of each one's logits in the sum.
PAIRS = {
    'conformer/conformer-tiny-p16_8xb128_in1k.py': 1.0,
    'deit/deit-tiny-distilled_4xb256_in1k.py': 0.5,
    'levit/levit-128s_8xb256_in1k.py': 0.5,
    'efficientformer/efficientformer-l1_8xb128_in1k.py': 0.5,
}


@pytest.fixture(scope='module', params=PAIRS, ids=lambda n: n.split('/')[0])
def pair(request: pytest.FixtureRequest) -> tuple[Any, float]:
    """A wrapper around a network of two heads, and each one's weight."""
    model = load_config(f'mmpretrain::{request.param}').model
    model.backbone.drop_path_rate = 0.0
    model.head.num_classes = 10
    model.head.loss = dict(type='CrossEntropyLoss')
    model.pop('train_cfg', None)
    torch.manual_seed(0)
    wrapper = MODELS.build(
        adversarial_cfg(classifier=model, method=dict(type='m2at_mm.Standard'))
    )
    wrapper.init_weights()
    for parameter in wrapper.head.parameters():  # some begin at zero
        nn.init.normal_(parameter, std=0.1)
    return wrapper, PAIRS[request.param]


def two_heads(wrapper: Any) -> list[Tensor]:
    """The logits of both heads, by hand."""
    head = wrapper.head
    features = wrapper.extract_feat(IMAGES)[-1]
    name = type(head).__name__
    if name == 'ConformerHead':
        conv, trans = features
        return [head.conv_cls_head(conv), head.trans_cls_head(trans)]
    if name == 'DeiTClsHead':
        cls_token, dist_token = features[-2:]
        layers = head.layers
        return [layers.head(cls_token), layers.head_dist(dist_token)]
    second = head.dist_head if name == 'EfficientFormerClsHead' else None
    return [head.head(features), (second or head.head_dist)(features)]


@pytest.mark.parametrize('training', [False, True])
def test_two_heads_give_one_row_of_logits(
    pair: tuple[Any, float], training: bool
) -> None:
    wrapper, weight = pair
    wrapper.train(training)
    torch.manual_seed(1)
    found = wrapper(IMAGES)
    torch.manual_seed(1)
    expected = weight * sum(two_heads(wrapper))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert wrapper.head.training == training


def test_two_heads_learn(pair: tuple[Any, float]) -> None:
    wrapper, weight = pair
    wrapper.train()
    torch.manual_seed(1)
    losses, logits = wrapper.supervised_loss(IMAGES, LABELS)
    torch.manual_seed(1)
    scores = two_heads(wrapper)
    if type(wrapper.head).__name__ == 'ConformerHead':
        expected = sum(F.cross_entropy(one, LABELS) for one in scores)
    else:
        expected = F.cross_entropy(weight * sum(scores), LABELS)
    torch.testing.assert_close(losses['loss'], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        logits, weight * sum(scores), rtol=1e-4, atol=1e-5
    )
    assert wrapper.head.training
    losses['loss'].backward()
    for name, parameter in wrapper.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@MMPRETRAIN_MODELS.register_module()
class TwiceLossHead(LinearClsHead):
    """A user's head that asks its loss twice for the same logits."""

    def loss(self, feats: Any, data_samples: Any, **kwargs: Any) -> dict:
        first = super().loss(feats, data_samples)['loss']
        second = super().loss(feats, data_samples)['loss']
        return dict(loss=first, loss_again=second)


@MMPRETRAIN_MODELS.register_module()
class PairHead(LinearClsHead):
    """A user's head with an auxiliary output."""

    def forward(self, feats: Any) -> Any:
        return super().forward(feats), super().forward(feats)


def test_logits_of_a_users_head_are_taken_as_they_are() -> None:
    cfg = classifier_cfg()
    cfg['head']['type'] = 'TwiceLossHead'
    wrapper = build_adversarial(classifier=cfg).eval()
    images = IMAGES[..., :32, :32].contiguous()
    losses, logits = wrapper.supervised_loss(images, LABELS)
    torch.testing.assert_close(logits, wrapper(images))
    assert losses.keys() == {'loss', 'loss_again'}


def test_outputs_of_unknown_meaning_are_not_attacked() -> None:
    cfg = classifier_cfg()
    cfg['head']['type'] = 'PairHead'
    wrapper = build_adversarial(classifier=cfg).eval()
    images = IMAGES[..., :32, :32].contiguous()
    with pytest.raises(TypeError, match=r'shape \(N, K\).*tuple'):
        pgd(wrapper, images, LABELS, ThreatModel())


@pytest.mark.parametrize('soft', [False, True])
def test_arcface_takes_labels_and_soft_targets(soft: bool) -> None:
    cfg = classifier_cfg()
    cfg['head'] = dict(
        type='ArcFaceClsHead', num_classes=10, in_channels=32, margins=0.3
    )
    wrapper = build_adversarial(classifier=cfg).train()
    images = IMAGES[..., :32, :32].contiguous()
    target = F.one_hot(LABELS, 10) * 0.8 + 0.02 if soft else LABELS
    losses, logits = wrapper.supervised_loss(images, target)
    # By hand: the angle to the right class grows by the margin.
    features = F.normalize(wrapper.extract_feat(images)[-1])
    weights = F.normalize(wrapper.head.norm_product.weight)
    angles = (features @ weights.T).acos()
    margin = 0.3 * F.one_hot(LABELS, 10)
    expected = 64 * (angles + margin).cos()
    # The margin is the loss's alone.
    torch.testing.assert_close(logits, wrapper(images))
    torch.testing.assert_close(
        losses['loss'],
        F.cross_entropy(expected, target),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ('head', 'reason'),
    [
        (
            dict(
                type='MultiLabelLinearClsHead', num_classes=10, in_channels=32
            ),
            'several labels',
        ),
        (
            dict(
                type='MultiTaskHead',
                in_channels=32,
                task_heads=dict(one=dict(type='LinearClsHead', num_classes=2)),
            ),
            'several tasks',
        ),
    ],
)
def test_heads_that_cannot_be_attacked(head: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=f"head='{head['type']}' .*{reason}"):
        build_adversarial(classifier=dict(classifier_cfg(), head=head))


@pytest.mark.parametrize('method', ['PGDAT', 'AVmixup', 'TRADES', 'IAT'])
def test_a_network_that_squeezes_trains_on_one_image(method: str) -> None:
    """LeNet-5 gives one image logits without a batch."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='m2at_mm.AdversarialClassifier',
            classifier=dict(
                type='ImageClassifier',
                backbone=dict(type='LeNet5', num_classes=10),
                head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
            ),
            threat_model=dict(eps='0/255'),
            train_attack=dict(type='m2at_mm.PGD', steps=1, step_size=0.1),
            method=dict(type=f'm2at_mm.{method}'),
            data_preprocessor=dict(num_classes=10, to_rgb=False),
        )
    ).train()
    image = torch.rand(1, 1, 32, 32)
    label = torch.tensor([3])
    torch.manual_seed(1)
    alone, logits = model.supervised_loss(image, label)
    both, _ = model.supervised_loss(
        torch.cat([image] * 2), torch.cat([label] * 2)
    )
    assert logits.shape == (1, 10)
    assert torch.allclose(alone['loss'], both['loss'])
    losses = model.method.loss(model, model.attack_in_training, image, label)
    assert all(value.isfinite() for value in losses.values())
