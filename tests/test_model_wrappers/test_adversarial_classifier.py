"""The wrapper against the stock classifier it wraps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import ClsDataPreprocessor, SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from tiny import (
    MEAN,
    STD,
    adversarial_cfg,
    build_adversarial,
    build_stock,
    classifier_cfg,
    labels_of,
    raw_batch,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks import ThreatModel, pgd
from m2at_mm.data_preprocessors import AdversarialDataPreprocessor
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.registry import MODELS
from m2at_mm.structures import BatchLabels

PGD10 = dict(pgd10=dict(type='m2at_mm.PGD', steps=2))
TINY_VIT: dict = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=16,
            num_layers=3,
            num_heads=2,
            feedforward_channels=32,
        ),
        img_size=32,
        patch_size=8,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
)
TINY_SWIN: dict = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
        img_size=64,
        window_size=2,
        patch_size=2,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


def _stock_logits(model: Any, batch: dict) -> Tensor:
    data = model.data_preprocessor(copy.deepcopy(batch))
    with torch.no_grad():
        return model.eval()(data['inputs'], mode='tensor')


def _our_logits(model: Any, batch: dict) -> Tensor:
    data = model.data_preprocessor(copy.deepcopy(batch))
    with torch.no_grad():
        return model.eval()(data['inputs'], mode='tensor')


@pytest.mark.parametrize('to_rgb', [False, True])
def test_checkpoints_load_strictly_both_ways(to_rgb: bool) -> None:
    settings = dict(mean=MEAN, std=STD, to_rgb=to_rgb)
    ours = build_adversarial(data_preprocessor=settings)
    stock = build_stock(to_rgb=to_rgb)
    batch = raw_batch()

    stock.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(
        _our_logits(ours, batch),
        _stock_logits(stock, batch),
        atol=1e-5,
        rtol=0,
    )

    other = build_adversarial(seed=1, data_preprocessor=settings)
    load_state_dict(other, stock.state_dict(), strict=True)  # MMEngine's
    torch.testing.assert_close(
        _our_logits(other, batch), _our_logits(ours, batch), atol=0, rtol=0
    )


def test_keys_are_those_of_the_stock_classifier_in_order() -> None:
    assert list(build_adversarial().state_dict()) == list(
        build_stock().state_dict()
    )


def test_module_versions_travel_with_the_keys() -> None:
    """Swin converts checkpoints by the version in the metadata."""
    ours = build_adversarial(classifier=copy.deepcopy(TINY_SWIN))
    stock = build_stock(copy.deepcopy(TINY_SWIN))
    ours_versions = ours.state_dict()._metadata
    stock_versions = stock.state_dict()._metadata
    shared = [key for key in stock_versions if 'preprocessor' not in key]
    assert {key: ours_versions[key] for key in shared} == {
        key: stock_versions[key] for key in shared
    }
    assert any('version' in stock_versions[key] for key in shared)
    assert stock_versions['backbone']['version'] > 1
    seen = []
    original = type(ours.backbone)._load_from_state_dict

    def spy(self: Any, state: dict, prefix: str, meta: dict, *a: Any) -> Any:
        seen.append(meta.get('version'))
        return original(self, state, prefix, meta, *a)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ours.backbone), '_load_from_state_dict', spy)
        load_state_dict(ours, stock.state_dict(), strict=True)
        ours.load_state_dict(stock.state_dict(), strict=True)
    assert seen == [stock_versions['backbone']['version']] * 2


def test_ema_keeps_transparent_keys() -> None:
    ours = build_adversarial()
    ema = ExponentialMovingAverage(ours)
    keys = [
        key.removeprefix('module.')
        for key in ema.state_dict()
        if key.startswith('module.')
    ]
    assert keys == list(build_stock().state_dict())
    ema.load_state_dict(ema.state_dict(), strict=True)


def test_attributes_of_the_classifier_show_through() -> None:
    ours = build_adversarial()
    assert ours.head is ours.classifier.head
    assert ours.backbone is ours.classifier.backbone
    assert ours.with_head and ours.with_neck
    assert ours.num_classes == 10
    with pytest.raises(AttributeError, match='no attribute'):
        _ = ours.nonsense


def test_features_are_those_of_the_normalised_image() -> None:
    ours, batch = build_adversarial(), raw_batch()
    stock = build_stock()
    stock.load_state_dict(ours.state_dict())
    images = ours.data_preprocessor(copy.deepcopy(batch))['inputs']
    inputs = stock.data_preprocessor(copy.deepcopy(batch))['inputs']
    torch.testing.assert_close(
        ours.eval().extract_feat(images),
        stock.eval().extract_feat(inputs),
        atol=1e-5,
        rtol=0,
    )


def test_layer_decay_is_that_of_the_stock_classifier() -> None:
    def rates(model: Any) -> dict[str, tuple[float, float]]:
        wrapper = build_optim_wrapper(
            model,
            dict(
                constructor='LearningRateDecayOptimWrapperConstructor',
                optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
                paramwise_cfg=dict(layer_decay_rate=0.5, bias_decay_mult=0.0),
            ),
        )
        names = {id(p): name for name, p in model.named_parameters()}
        return {
            names[id(p)].removeprefix('classifier.'): (
                group['lr'],
                group['weight_decay'],
            )
            for group in wrapper.optimizer.param_groups
            for p in group['params']
        }

    ours = build_adversarial(classifier=copy.deepcopy(TINY_VIT))
    stock = build_stock(copy.deepcopy(TINY_VIT))
    assert rates(ours) == rates(stock)
    assert len(set(rates(ours).values())) > 4


@pytest.mark.parametrize(
    'place', ['top level', 'inside the classifier', 'both', 'typed']
)
def test_stock_preprocessing_settings_are_taken_over(place: str) -> None:
    settings = dict(mean=MEAN, std=STD, to_rgb=True, num_classes=10)
    other = dict(mean=[0, 0, 0], std=[1, 1, 1])
    cfg = adversarial_cfg(data_preprocessor=None)
    if place == 'top level':
        cfg['data_preprocessor'] = settings
    elif place == 'typed':
        cfg['data_preprocessor'] = dict(type='ClsDataPreprocessor', **settings)
    else:
        cfg['classifier']['data_preprocessor'] = settings
    if place == 'both':  # as in a stock config, the model's own goes first
        cfg['data_preprocessor'] = other
    preprocessor = MODELS.build(cfg).data_preprocessor
    assert preprocessor.mean.flatten().tolist() == pytest.approx(MEAN)
    assert preprocessor.std.flatten().tolist() == pytest.approx(STD)
    assert preprocessor.to_rgb and preprocessor.num_classes == 10


def test_batch_augments_of_train_cfg_are_taken_over() -> None:
    classifier = classifier_cfg()
    classifier['train_cfg'] = dict(augments=dict(type='Mixup', alpha=1.0))
    ours = build_adversarial(classifier=classifier)
    data = ours.data_preprocessor(raw_batch(), training=True)
    assert 'gt_score' in data['data_samples'][0]
    losses = ours.train()(**data, mode='loss')
    assert torch.isfinite(losses['loss'])


def test_foreign_preprocessor_is_refused() -> None:
    with pytest.raises(ValueError, match="'SelfSupDataPreprocessor' cannot"):
        build_adversarial(
            data_preprocessor=dict(type='SelfSupDataPreprocessor')
        )


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(train_attack=None), 'train_attack is None'),
        (dict(threat_model=dict(eps=8)), "'8/255'"),
        (
            dict(eval_attacks=dict(worst=dict(type='m2at_mm.PGD'))),
            "the name 'worst'",
        ),
        (dict(method=dict(type='m2at_mm.M2AT', scale=0.5)), 'scale=0.5'),
        (
            dict(train_attack=dict(type='m2at_mm.PGD', steps=0)),
            'steps=0',
        ),
    ],
)
def test_bad_settings_are_refused_when_built(
    settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(adversarial_cfg(**settings))


def test_predict_attacks_labelled_images_under_no_grad() -> None:
    ours = build_adversarial(
        eval_attacks=dict(
            weak=dict(type='m2at_mm.PGD', steps=1, step_size=0),
            pgd=dict(type='m2at_mm.PGD', steps=5),
        ),
        threat_model=dict(eps='64/255'),
    ).eval()
    data = ours.data_preprocessor(raw_batch(num=8))
    images, samples = data['inputs'], data['data_samples']
    logits = ours(images)
    # Truth = prediction, so that every image can be fooled.
    for sample, label in zip(samples, logits.argmax(1)):
        sample.set_gt_label(int(label))
    with torch.no_grad():
        found = ours(images, samples, mode='predict')
    assert [int(s.pred_label) for s in found] == labels_of(samples).tolist()
    under_pgd = [s.adversarial_pred_labels['pgd'] for s in found]
    assert under_pgd != labels_of(samples).tolist()
    assert set(found[0].adversarial_pred_labels) == {'weak', 'pgd'}
    assert not ours.training


def test_predict_without_labels_or_attacks_is_the_stock_one() -> None:
    batch = raw_batch()
    for attacks, samples in ((PGD10, None), (None, batch['data_samples'])):
        ours = build_adversarial(eval_attacks=attacks).eval()
        images = batch['inputs'] / 255
        found = ours(images, copy.deepcopy(samples), mode='predict')
        assert 'adversarial_pred_labels' not in found[0]
        torch.testing.assert_close(
            torch.stack([s.pred_score for s in found]),
            ours(images).softmax(1),
        )


def test_training_step_is_plain_pgd_at() -> None:
    """Loss, gradients and BN statistics of the published loop."""
    ours = build_adversarial(
        method=dict(type='m2at_mm.PGDAT'),
        train_attack=dict(type='m2at_mm.PGD', steps=3, random_start=False),
    ).train()
    plain = copy.deepcopy(ours.classifier).train()
    data = ours.data_preprocessor(raw_batch(num=6), training=True)
    images, labels = data['inputs'], labels_of(data['data_samples'])

    losses = ours(**data, mode='loss')
    losses['loss'].backward()

    mean = torch.tensor(MEAN).view(3, 1, 1) / 255
    std = torch.tensor(STD).view(3, 1, 1) / 255
    adversarial = images.clone()
    plain.eval()
    for _ in range(3):
        adversarial.requires_grad_(True)
        loss = nn.functional.cross_entropy(
            plain((adversarial - mean) / std), labels, reduction='sum'
        )
        (gradient,) = torch.autograd.grad(loss, adversarial)
        step = adversarial.detach() + 2 / 255 * gradient.sign()
        adversarial = images + (step - images).clamp(-8 / 255, 8 / 255)
        adversarial = adversarial.clamp(0, 1)
    plain.train()
    logits = plain((adversarial - mean) / std)
    expected = nn.functional.cross_entropy(logits, labels)
    expected.backward()

    torch.testing.assert_close(losses['loss'], expected, atol=1e-5, rtol=0)
    accuracy = 100 * (logits.argmax(1) == labels).float().mean()
    assert float(losses['adversarial_accuracy']) == pytest.approx(
        float(accuracy)
    )
    for (name, mine), theirs in zip(
        ours.classifier.named_parameters(), plain.parameters()
    ):
        torch.testing.assert_close(
            mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name
        )
    for mine, theirs in zip(ours.classifier.buffers(), plain.buffers()):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_frozen_batch_norm_stays_frozen() -> None:
    ours = build_adversarial(classifier=classifier_cfg(norm_eval=True)).train()
    norms = [m for m in ours.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    before = copy.deepcopy(ours.state_dict())
    ours(**ours.data_preprocessor(raw_batch(), True), mode='loss')
    assert not any(norm.training for norm in norms)
    assert all(
        torch.equal(value, before[key])
        for key, value in ours.state_dict().items()
    )


def test_head_that_logs_accuracy_accepts_soft_labels() -> None:
    classifier = classifier_cfg()
    classifier['head'].update(cal_acc=True)
    ours = build_adversarial(
        classifier=classifier,
        method=dict(type='m2at_mm.M2AT', perturbed_label=0.5),
    ).train()
    losses = ours(**ours.data_preprocessor(raw_batch(), True), mode='loss')
    assert set(losses) == {'loss', 'kept_share', 'adversarial_accuracy'}


def test_samples_of_the_dataloader_are_not_changed_by_the_loss() -> None:
    ours = build_adversarial(
        method=dict(type='m2at_mm.M2AT', perturbed_label=0.5)
    ).train()
    data = ours.data_preprocessor(raw_batch(), True)
    ours(**data, mode='loss')
    assert all('gt_score' not in sample for sample in data['data_samples'])


def test_unlabelled_training_data_are_refused() -> None:
    ours = build_adversarial()
    with pytest.raises(ValueError, match='neither gt_label nor gt_score'):
        ours(torch.rand(1, 3, 32, 32), [DataSample()], mode='loss')


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode='train' is unknown"):
        build_adversarial()(torch.rand(1, 3, 32, 32), mode='train')


def test_wrapper_is_an_attackable_function_of_images() -> None:
    ours = build_adversarial().eval()
    images = raw_batch()['inputs'] / 255
    labels = ours(images).argmax(1)
    threat = ThreatModel('linf', '64/255')
    adversarial = pgd(ours, images, labels, threat, steps=5)
    assert bool(threat.ball(images).contains(adversarial).all())
    assert (ours(adversarial).argmax(1) != labels).any()


@pytest.mark.parametrize(
    'method', ['Standard', 'PGDAT', 'M2AT', 'TRADES', 'AVmixup', 'IAT']
)
@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_mixed_images_are_attacked_towards_their_mixed_label(
    method: str, augment: str
) -> None:
    model = build_adversarial(
        method=dict(type=f'm2at_mm.{method}'),
        data_preprocessor=dict(
            mean=MEAN,
            std=STD,
            num_classes=10,
            batch_augments=dict(augments=dict(type=augment, alpha=1.0)),
        ),
    ).train()
    given: list[torch.Tensor] = []
    attack = model.train_attack

    def recorded(net: Any, images: Any, target: Any, *rest: Any) -> Any:
        given.append(target)
        return attack(net, images, target, *rest)

    model.train_attack = recorded
    torch.manual_seed(0)
    data = model.data_preprocessor(raw_batch(), training=True)
    losses = model(**data, mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total)
    assert model.head.fc.weight.grad.abs().max() > 0
    if method != 'Standard':
        [target] = given
        mixed = torch.stack([s.gt_score for s in data['data_samples']])
        assert torch.equal(target, mixed)
        assert 0 < (mixed > 0).sum(1).max() <= 2


@pytest.mark.parametrize('soft', [False, True])
def test_label_smoothing_changes_what_is_learnt_alone(soft: bool) -> None:
    model = build_adversarial(
        method=dict(type='m2at_mm.PGDAT'), label_smoothing=0.2
    ).train()
    seen: list[torch.Tensor] = []

    def attack(net: Any, images: Any, target: Any, *rest: Any) -> Any:
        seen.append(target)
        return images

    model.train_attack = attack
    data = model.data_preprocessor(raw_batch(), training=True)
    labels = labels_of(data['data_samples'])
    one_hot = torch.nn.functional.one_hot(labels, 10).float()
    if soft:
        for sample, score in zip(data['data_samples'], one_hot):
            sample.set_gt_score(score)
    loss = model(**data, mode='loss')['loss']
    [target] = seen
    assert torch.equal(target, one_hot if soft else labels)
    logits = model(data['inputs'])
    expected = torch.nn.functional.cross_entropy(
        logits, labels, label_smoothing=0.2
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize('value', [-0.1, 1.0])
def test_wrong_label_smoothing(value: float) -> None:
    with pytest.raises(ValueError, match=f'label_smoothing={value}'):
        build_adversarial(label_smoothing=value)


# Every method with the attack of its recipe.
METHODS: dict[str, Any] = {
    'Standard': None,
    'PGDAT': dict(type='m2at_mm.PGD', steps=2),
    'M2AT': dict(type='m2at_mm.PGD', steps=2),
    'TRADES': dict(type='m2at_mm.PGD', steps=2, loss='kl', noise_std=0.001),
    'MART': dict(type='m2at_mm.PGD', steps=2),
    'AVmixup': dict(type='m2at_mm.PGD', steps=2),
    'IAT': dict(type='m2at_mm.NFGSM'),
    'FreeAT': None,
}


def _as_one(batch: dict) -> dict:
    labels = BatchLabels(labels_of(batch['data_samples']))
    return dict(batch, data_samples=labels)


@pytest.mark.parametrize('mixed', [False, True], ids=['hard', 'mixed'])
@pytest.mark.parametrize('method', METHODS)
def test_labels_in_one_object_give_the_same_training(
    method: str, mixed: bool
) -> None:
    if mixed and method == 'MART':
        pytest.skip('it needs hard labels')
    settings = dict(mean=MEAN, std=STD, num_classes=10)
    if mixed:
        settings['batch_augments'] = dict(
            augments=dict(type='Mixup', alpha=1.0)
        )
    ends = []
    for change in (dict, _as_one):
        model = build_adversarial(
            method=dict(type=f'm2at_mm.{method}'),
            train_attack=METHODS[method],
            data_preprocessor=settings,
        ).train()
        wrapper = AWPOptimWrapper if method == 'M2AT' else OptimWrapper
        optim = wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        torch.manual_seed(0)
        np.random.seed(0)
        for seed in range(2):
            model.train_step(change(raw_batch(seed=seed)), optim)
        ends.append(model.state_dict())
    for one, other in zip(*(end.values() for end in ends)):
        assert torch.equal(one, other)


def test_labels_in_one_object_are_not_for_predictions() -> None:
    model = build_adversarial()
    with pytest.raises(TypeError, match='whole_batches=False'):
        model.val_step(_as_one(raw_batch()))


def test_crops_and_flips_of_the_dataset_stay() -> None:
    inner = dict(mean=MEAN, std=STD, num_classes=10)
    model = build_adversarial(
        classifier=dict(classifier_cfg(), data_preprocessor=inner),
        data_preprocessor=dict(mean=STD, std=MEAN, augment=dict()),
    )
    assert model.data_preprocessor.augment is not None
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        MEAN
    )


@pytest.mark.parametrize(
    'kind',
    [
        'ClsDataPreprocessor',
        'mmpretrain.ClsDataPreprocessor',
        ClsDataPreprocessor,
        'm2at_mm.AdversarialDataPreprocessor',
        AdversarialDataPreprocessor,
    ],
    ids=str,
)
@pytest.mark.parametrize('inside', [False, True])
def test_type_of_a_preprocessor(kind: Any, inside: bool) -> None:
    settings = dict(type=kind, mean=MEAN, std=STD, num_classes=10)
    classifier = classifier_cfg()
    given: Any = settings
    if inside:
        classifier['data_preprocessor'], given = settings, None
    model = build_adversarial(classifier=classifier, data_preprocessor=given)
    found = model.data_preprocessor
    assert type(found) is AdversarialDataPreprocessor
    assert found.mean.flatten().tolist() == pytest.approx(MEAN)


def test_preprocessor_of_another_kind() -> None:
    with pytest.raises(ValueError, match='cannot be taken over'):
        build_adversarial(data_preprocessor=dict(type=SelfSupDataPreprocessor))
