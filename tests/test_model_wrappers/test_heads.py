"""What is attacked, trained, logged and exported is one function."""

from itertools import product
from typing import Any

import mmpretrain.models.heads as stock_heads
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from tiny import (
    build_adversarial,
    classifier_cfg,
    skip_unless_computed,
)
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, pgd
from m2at_mm.exchange import PlainClassifier
from m2at_mm.model_wrappers.heads import why_unsupported

NUM, WIDTH, CLASSES = 6, 16, 5
LABELS = torch.arange(NUM) % CLASSES
PLAIN = dict(distillation=False)
CENTRES = dict(num_subcenters=3, easy_margin=True)
STACKED = dict(mid_channels=[8], norm_cfg=dict(type='BN1d'))
# Each head of mmpretrain for one label per image, and its settings.
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    'no layer': ('ClsHead', {}),
    'linear': ('LinearClsHead', {}),
    'stacked': ('StackedLinearClsHead', STACKED),
    'transformer': ('VisionTransformerClsHead', {}),
    'hidden': ('VisionTransformerClsHead', dict(hidden_dim=8)),
    'DeiT': ('DeiTClsHead', {}),
    'LeViT': ('LeViTClsHead', PLAIN),
    'LeViT, distilled': ('LeViTClsHead', {}),
    'EfficientFormer': ('EfficientFormerClsHead', PLAIN),
    'EfficientFormer, distilled': ('EfficientFormerClsHead', {}),
    'Conformer': ('ConformerHead', dict(in_channels=[WIDTH, WIDTH])),
    'Vig': ('VigClsHead', dict(hidden_dim=8)),
    'ArcFace': ('ArcFaceClsHead', dict(scale=8.0)),
    'ArcFace, centres': ('ArcFaceClsHead', CENTRES),
}
CONSISTENT = ('TRADES', 'MART', 'M2AT')


@MMPRETRAIN_MODELS.register_module()
class FeaturesOfImages(nn.Module):
    """A backbone without a neck, for images of any shape."""

    def __init__(self, channels: int, width: int, number: int) -> None:
        super().__init__()
        layers = (nn.Linear(3 * channels, width) for _ in range(number))
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        parts = images.flatten(2)[..., ::5].chunk(3, dim=2)
        seen = torch.cat([part.mean(2) for part in parts], dim=1)
        found = [layer(seen) for layer in self.layers]
        return (found if len(found) > 1 else found[0],)


def build(head: str, channels: int = 3, method: str = '', **more: Any) -> Any:
    kind, given = HEADS[head]
    consistency = dict(consistency=1.0) if method == 'M2AT' else {}
    backbone = dict(type='FeaturesOfImages', channels=channels, width=WIDTH)
    backbone['number'] = 2 if kind in ('DeiTClsHead', 'ConformerHead') else 1
    if kind == 'ClsHead':  # it has no layer
        backbone['width'] = CLASSES
    else:
        given = dict(in_channels=WIDTH, num_classes=CLASSES) | given
    classifier = dict(type='ImageClassifier', backbone=backbone)
    mean, std = [120.0] * channels, [60.0] * channels
    wrapper = build_adversarial(
        classifier=dict(classifier, head=dict(given, type=kind)),
        data_preprocessor=dict(mean=mean, std=std, num_classes=CLASSES),
        method=dict(consistency, type=f'm2at_mm.{method or "M2AT"}'),
        **more,
    )
    draw = torch.Generator().manual_seed(0)
    for parameter in wrapper.parameters():  # some heads begin at zero
        parameter.data.normal_(generator=draw)
    return wrapper


def images(channels: int = 3, num: int = NUM) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(num, channels, 9, 14, generator=draw)


def scores_of(samples: list[DataSample]) -> Tensor:
    return torch.stack([sample.pred_score for sample in samples])


def predicted(wrapper: Any, given: Tensor) -> Tensor:
    """The probabilities that mmpretrain's own ``predict`` gives."""
    return scores_of(wrapper.classifier.predict((255 * given - 120) / 60))


def test_the_table_has_every_head() -> None:
    every = [getattr(stock_heads, name) for name in stock_heads.__all__]
    kinds = [one for one in every if isinstance(one, type)]
    known = [one for one in kinds if issubclass(one, stock_heads.ClsHead)]
    supported = {k.__name__ for k in known if why_unsupported(k) is None}
    assert supported == {kind for kind, _ in HEADS.values()}


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('head', HEADS)
def test_all_logits_are_those_predicted(head: str, channels: int) -> None:
    wrapper = build(head, channels, 'Standard').eval()
    given = images(channels)
    expected = predicted(wrapper, given)
    with torch.no_grad():
        _, trained = wrapper.supervised_loss(given, LABELS)
        exported = PlainClassifier.of(wrapper)(given)
        for logits in (wrapper(given), trained, exported):
            torch.testing.assert_close(logits.softmax(1), expected)
        torch.testing.assert_close(trained, wrapper(given))


@pytest.mark.parametrize('method', CONSISTENT)
@pytest.mark.parametrize('head', HEADS)
def test_consistency_compares_one_function(head: str, method: str) -> None:
    """Without a perturbation there is no divergence."""
    wrapper = build(head, method=method).eval()
    given = images()
    with torch.no_grad():
        losses = wrapper.method.loss(
            wrapper, lambda model, unperturbed, _: unperturbed, given, LABELS
        )
    assert float(losses['loss_consistency']) == pytest.approx(0, abs=1e-5)
    right = predicted(wrapper, given).argmax(1) == LABELS
    assert losses['adversarial_accuracy'] == 100 * right.float().mean()


# A batch norm cannot train on one image.
WITH_NORM = {'stacked', 'LeViT', 'LeViT, distilled', 'Vig'}
SIZES = set(product(HEADS, (1, NUM))) - set(product(WITH_NORM, (1,)))


@pytest.mark.parametrize(('head', 'num'), sorted(SIZES))
def test_trained_end_to_end(head: str, num: int) -> None:
    wrapper = build(head, eval_attacks=dict(a=dict(type='m2at_mm.PGD')))
    samples = [DataSample().set_gt_label(int(k)) for k in LABELS[:num]]
    given = images(num=num)
    losses = wrapper.train()(given, samples, mode='loss')
    losses['loss'].backward()
    assert all(bool(value.isfinite().all()) for value in losses.values())
    found = scores_of(wrapper.eval()(given, samples, mode='predict'))
    torch.testing.assert_close(found, predicted(wrapper, given))


@pytest.mark.parametrize('dtype', ['float64', 'float16', 'bfloat16'])
@pytest.mark.parametrize('method', [*CONSISTENT, 'AVmixup'])
@pytest.mark.parametrize('head', ['linear', 'Conformer', 'ArcFace'])
def test_another_precision(head: str, method: str, dtype: str) -> None:
    precision = getattr(torch, dtype)
    skip_unless_computed(precision)
    wrapper = build(head, method=method, label_smoothing=0.0)
    if head == 'ArcFace':  # its margin would overflow a half's angle
        wrapper.head.set_margins(0.0)
    wrapper.to(precision)
    samples = [DataSample().set_gt_label(int(k)) for k in LABELS]
    losses = wrapper.train()(images(), samples, mode='loss')
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    wrapper.eval()
    with torch.no_grad():
        _, trained = wrapper.supervised_loss(images(), LABELS)
        logits = wrapper(images())
        assert logits.dtype == precision
        assert torch.equal(trained, logits)
        assert torch.equal(PlainClassifier.of(wrapper)(images()), logits)
    reference = build(head, method=method).eval()
    expected = reference(images()).softmax(1).detach()
    close = dict(rtol=0.0, atol=1e-5 if dtype == 'float64' else 0.1)
    found = logits.double().softmax(1)
    torch.testing.assert_close(found, expected.double(), **close)


# Heads that are two: the weight of each one's logits, and their layers.
PAIRS = {
    'Conformer': (1.0, 'conv_cls_head', 'trans_cls_head'),
    'DeiT': (0.5, 'layers.head', 'layers.head_dist'),
    'LeViT, distilled': (0.5, 'head', 'head_dist'),
    'EfficientFormer, distilled': (0.5, 'head', 'dist_head'),
}


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', PAIRS)
def test_two_heads_give_one_row_and_learn(name: str, training: bool) -> None:
    wrapper = build(name, method='Standard').train(training)
    losses, logits = wrapper.supervised_loss(images(), LABELS)
    weight, *layers = PAIRS[name]
    features = wrapper.extract_feat(images())[-1]
    pair = features if isinstance(features, list) else [features] * 2
    heads = map(wrapper.head.get_submodule, layers)
    scores = [head(one) for head, one in zip(heads, pair)]
    joined = weight * sum(scores)
    expected = F.cross_entropy(joined, LABELS)
    if name == 'Conformer':
        expected = sum(F.cross_entropy(one, LABELS) for one in scores)
    close = dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses['loss'], expected, **close)
    torch.testing.assert_close(logits, joined, **close)
    torch.testing.assert_close(wrapper(images()), joined, **close)
    assert wrapper.head.training == training
    losses['loss'].backward()
    for parameter in wrapper.head.parameters():
        assert parameter.grad is not None and parameter.grad.any()


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


def test_heads_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('TwiceLossHead', 'PairHead'):
        monkeypatch.setitem(HEADS, name, (name, {}))
    wrapper = build('TwiceLossHead').eval()
    losses, logits = wrapper.supervised_loss(images(), LABELS)
    torch.testing.assert_close(logits, wrapper(images()))
    assert losses.keys() == {'loss', 'loss_again'}
    # Outputs of unknown meaning are not attacked.
    with pytest.raises(TypeError, match=r'shape \(N, K\).*tuple'):
        pgd(build('PairHead').eval(), images(), LABELS, ThreatModel())


@pytest.mark.parametrize('soft', [False, True])
def test_arcface_takes_soft_targets(soft: bool, monkeypatch: Any) -> None:
    arcface = ('ArcFaceClsHead', dict(margins=0.3))
    monkeypatch.setitem(HEADS, 'margin', arcface)
    wrapper = build('margin').train()
    one_hot = F.one_hot(LABELS, CLASSES)
    target = one_hot * 0.8 + 0.04 if soft else LABELS
    losses, logits = wrapper.supervised_loss(images(), target)
    # By hand: the angle to the right class grows by the margin.
    features = F.normalize(wrapper.extract_feat(images())[-1])
    weights = F.normalize(wrapper.head.norm_product.weight)
    angles = (features @ weights.T).acos()
    expected = F.cross_entropy(64 * (angles + 0.3 * one_hot).cos(), target)
    # The margin is the loss's alone.
    torch.testing.assert_close(logits, wrapper(images()))
    torch.testing.assert_close(losses['loss'], expected, rtol=1e-3, atol=1e-3)


def test_heads_that_cannot_be_attacked() -> None:
    tasks = dict(one=dict(type='LinearClsHead', num_classes=2))
    for kind, settings, reason in (
        ('MultiLabelLinearClsHead', dict(num_classes=10), 'several labels'),
        ('MultiTaskHead', dict(task_heads=tasks), 'several tasks'),
    ):
        head = dict(settings, type=kind, in_channels=32)
        with pytest.raises(ValueError, match=f"head='{kind}' .*{reason}"):
            build_adversarial(classifier=dict(classifier_cfg(), head=head))


@pytest.mark.parametrize('method', ['PGDAT', 'AVmixup', 'TRADES', 'IAT'])
def test_a_network_that_squeezes_trains_on_one_image(method: str) -> None:
    """LeNet-5 gives one image logits without a batch."""
    backbone = dict(type='LeNet5', num_classes=10)
    head = dict(type='ClsHead', loss=dict(type='CrossEntropyLoss'))
    model = build_adversarial(
        classifier=dict(type='ImageClassifier', backbone=backbone, head=head),
        threat_model=dict(eps='0/255'),
        train_attack=dict(type='m2at_mm.PGD', steps=1, step_size=0.1),
        method=dict(type=f'm2at_mm.{method}'),
        data_preprocessor=dict(num_classes=10, to_rgb=False),
    ).train()
    image, label = torch.rand(1, 1, 32, 32), torch.tensor([3])
    alone, logits = model.supervised_loss(image, label)
    both, _ = model.supervised_loss(image.repeat(2, 1, 1, 1), label.repeat(2))
    assert logits.shape == (1, 10)
    assert torch.allclose(alone['loss'], both['loss'])
    losses = model.method.loss(model, model.attack_in_training, image, label)
    assert all(value.isfinite() for value in losses.values())
