"""The wrapper against the stock classifier it wraps."""

import copy
from itertools import product
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks import PGD
from m2at_mm.methods import M2AT
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.registry import MODELS
from m2at_mm.structures import BatchLabels

PGD_CFG = dict(type='m2at_mm.PGD')
DATA = dict(mean=tiny.MEAN, std=tiny.STD, num_classes=10)


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


def batch_for(model: Any, training: bool = True, num: int = 4) -> dict:
    return model.data_preprocessor(tiny.raw_batch(num=num), training)


def mixing(augment: str) -> dict[str, Any]:
    """Preprocessing settings with a batch augmentation."""
    augment_cfg = dict(type=augment, alpha=1.0)
    return dict(DATA, batch_augments=dict(augments=augment_cfg))


@pytest.mark.parametrize('to_rgb', [False, True])
def test_checkpoints_and_features_are_the_stock_ones(to_rgb: bool) -> None:
    settings = dict(mean=tiny.MEAN, std=tiny.STD, to_rgb=to_rgb)
    ours = tiny.build_adversarial(data_preprocessor=settings).eval()
    stock = tiny.build_stock(to_rgb=to_rgb).eval()
    assert list(ours.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(ours.state_dict(), strict=True)
    images, given = (batch_for(one, False)['inputs'] for one in (ours, stock))
    found = ours(images), ours.extract_feat(images)
    expected = stock(given), stock.extract_feat(given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    other = tiny.build_adversarial(seed=1, data_preprocessor=settings).eval()
    load_state_dict(other, stock.state_dict(), strict=True)  # MMEngine's
    assert torch.equal(other(images), ours(images))


def test_averages_and_attributes_are_the_classifiers() -> None:
    ours = tiny.build_adversarial()
    ema = ExponentialMovingAverage(ours)
    keys = [k for k in ema.state_dict() if k.startswith('module.')]
    assert keys == [f'module.{key}' for key in tiny.build_stock().state_dict()]
    ema.load_state_dict(ema.state_dict(), strict=True)
    assert ours.head is ours.classifier.head
    assert ours.with_head and ours.with_neck and ours.num_classes == 10
    with pytest.raises(AttributeError, match='no attribute'):
        _ = ours.nonsense


def test_defaults() -> None:
    kind = dict(type='m2at_mm.AdversarialClassifier', data_preprocessor=DATA)
    model = MODELS.build(dict(kind, classifier=tiny.classifier_cfg()))
    assert model.threat_model.to_dict() == {'norm': 'linf', 'eps': 8 / 255}
    assert model.method == M2AT()
    assert list(model.eval_attacks) == ['pgd10']
    for attack in (model.train_attack, model.eval_attacks['pgd10']):
        assert type(attack) is PGD and vars(attack) == vars(PGD(steps=10))
        length = attack.length_of_step(model.threat_model)
        assert length == pytest.approx(2 / 255)
    losses = model.train()(**batch_for(model), mode='loss')
    assert torch.isfinite(losses['loss'])
    found = model.eval()(**batch_for(model, False), mode='predict')
    assert set(found[0].adversarial_pred_labels) == {'pgd10'}
    for method in ('Standard', 'FreeAT'):  # without an attack
        model = tiny.build_adversarial(**tiny.RECIPES[method])
        assert model.train_attack is None


# --- predictions -----------------------------------------------------------


def test_predict_attacks_labelled_images_under_no_grad() -> None:
    weak, strong = dict(PGD_CFG, steps=1, step_size=0), dict(PGD_CFG, steps=5)
    attacks, large = dict(weak=weak, pgd=strong), dict(eps='64/255')
    ours = tiny.build_adversarial(eval_attacks=attacks, threat_model=large)
    ours.eval()
    images, samples = batch_for(ours, False, num=8).values()
    # Truth = prediction, so that every image can be fooled.
    for sample, label in zip(samples, ours(images).argmax(1)):
        sample.set_gt_label(int(label))
    with torch.no_grad():
        found = ours(images, samples, mode='predict')
    labels = tiny.labels_of(samples).tolist()
    assert [int(s.pred_label) for s in found] == labels
    assert [s.adversarial_pred_labels['pgd'] for s in found] != labels
    assert set(found[0].adversarial_pred_labels) == {'weak', 'pgd'}
    assert not ours.training


@pytest.mark.parametrize('attacks', [{}, None])
def test_predict_without_labels_or_attacks_is_stock(attacks: Any) -> None:
    batch = tiny.raw_batch()
    ours = tiny.build_adversarial(eval_attacks=attacks).eval()
    images = batch['inputs'] / 255
    samples = None if attacks is None else batch['data_samples']
    found = ours(images, samples, mode='predict')
    assert 'adversarial_pred_labels' not in found[0]
    scores = torch.stack([s.pred_score for s in found])
    torch.testing.assert_close(scores, ours(images).softmax(1))


def test_what_forward_refuses() -> None:
    ours, images = tiny.build_adversarial(), torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="mode='train' is unknown"):
        ours(images, mode='train')
    with pytest.raises(ValueError, match='neither gt_label nor gt_score'):
        ours(images, [DataSample()], mode='loss')
    with pytest.raises(TypeError, match='whole_batches=False'):
        ours.val_step(_as_one(tiny.raw_batch()))


# --- training --------------------------------------------------------------


def test_training_step_is_plain_pgd_at() -> None:
    """Loss, gradients and BN statistics of the published loop."""
    attack = dict(PGD_CFG, steps=3, random_start=False)
    settings = dict(method=dict(type='m2at_mm.PGDAT'), train_attack=attack)
    ours = tiny.build_adversarial(**settings).train()
    plain = copy.deepcopy(ours.classifier).eval()
    data = batch_for(ours, num=6)
    images, labels = data['inputs'], tiny.labels_of(data['data_samples'])
    loss = ours(**data, mode='loss')['loss']
    loss.backward()

    mean, std = torch.tensor([tiny.MEAN, tiny.STD]).view(2, 3, 1, 1) / 255
    adversarial = images.clone()
    for _ in range(3):
        adversarial.requires_grad_(True)
        logits = plain((adversarial - mean) / std)
        total = F.cross_entropy(logits, labels, reduction='sum')
        (gradient,) = torch.autograd.grad(total, adversarial)
        step = adversarial.detach() + 2 / 255 * gradient.sign()
        adversarial = images + (step - images).clamp(-8 / 255, 8 / 255)
        adversarial = adversarial.clamp(0, 1)
    logits = plain.train()((adversarial - mean) / std)
    expected = F.cross_entropy(logits, labels)
    expected.backward()

    close = torch.testing.assert_close
    close(loss, expected, atol=1e-5, rtol=0)
    mine = ours.classifier
    for one, other in zip(mine.parameters(), plain.parameters()):
        close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    close([*mine.buffers()], [*plain.buffers()], atol=1e-6, rtol=1e-5)


def test_frozen_batch_norm_stays_frozen() -> None:
    classifier = tiny.classifier_cfg(norm_eval=True)
    ours = tiny.build_adversarial(classifier=classifier).train()
    norms = [m for m in ours.modules() if isinstance(m, _BatchNorm)]
    before = copy.deepcopy(ours.state_dict())
    ours(**batch_for(ours), mode='loss')
    assert norms and not any(norm.training for norm in norms)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key])


def test_head_that_logs_accuracy_accepts_soft_labels() -> None:
    classifier = tiny.classifier_cfg()
    classifier['head'].update(cal_acc=True)
    method = dict(type='m2at_mm.M2AT', perturbed_label=0.5)
    ours = tiny.build_adversarial(classifier=classifier, method=method).train()
    data = batch_for(ours)
    losses = ours(**data, mode='loss')
    assert set(losses) == {'loss', 'kept_share', 'adversarial_accuracy'}
    # The samples of the dataloader are left as they are.
    assert all('gt_score' not in sample for sample in data['data_samples'])


def target_of(attack: Mock) -> Tensor:
    """What a train attack was given, once."""
    attack.assert_called_once()
    return attack.call_args.args[2]


# Methods that take soft labels from outside.
MIXING = sorted(tiny.RECIPES.keys() - {'MART', 'FreeAT'})


@pytest.mark.parametrize('method', MIXING)
@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_mixed_images_have_mixed_targets(method: str, augment: str) -> None:
    settings = dict(tiny.RECIPES[method], data_preprocessor=mixing(augment))
    model = tiny.build_adversarial(**settings)
    attack = model.train_attack = Mock(wraps=model.train_attack)
    torch.manual_seed(0)
    data = batch_for(model.train())
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    assert model.head.fc.weight.grad.abs().max() > 0
    if method != 'Standard':
        mixed = torch.stack([s.gt_score for s in data['data_samples']])
        assert torch.equal(target_of(attack), mixed)
        assert 0 < (mixed > 0).sum(1).max() <= 2


@pytest.mark.parametrize('soft', [False, True])
def test_label_smoothing_changes_what_is_learnt_alone(soft: bool) -> None:
    idle = dict(PGD_CFG, steps=1, step_size=0, random_start=False)
    settings: Any = dict(method=dict(type='m2at_mm.PGDAT'), train_attack=idle)
    model = tiny.build_adversarial(**settings, label_smoothing=0.2).train()
    attack = model.train_attack = Mock(wraps=model.train_attack)
    data = batch_for(model)
    labels = tiny.labels_of(data['data_samples'])
    one_hot = F.one_hot(labels, 10).float()
    if soft:
        for sample, score in zip(data['data_samples'], one_hot):
            sample.set_gt_score(score)
    loss = model(**data, mode='loss')['loss']
    assert torch.equal(target_of(attack), one_hot if soft else labels)
    logits = model(data['inputs'])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def _as_one(batch: dict) -> dict:
    labels = BatchLabels(tiny.labels_of(batch['data_samples']))
    return dict(batch, data_samples=labels)


# MART needs hard labels.
CASES = set(product(tiny.RECIPES, (False, True))) - {('MART', True)}


@pytest.mark.parametrize(('method', 'mixed'), sorted(CASES))
def test_labels_in_one_object_train_the_same(method: str, mixed: bool) -> None:
    data = mixing('Mixup') if mixed else DATA
    settings = dict(tiny.RECIPES[method], data_preprocessor=data)
    ends = []
    for change in (dict, _as_one):
        model = tiny.build_adversarial(**settings).train()
        wrapper = AWPOptimWrapper if method == 'M2AT' else OptimWrapper
        optim = wrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        torch.manual_seed(0)
        np.random.seed(0)
        for seed in range(2):
            model.train_step(change(tiny.raw_batch(seed=seed)), optim)
        ends.append(model.state_dict())
    assert all(map(torch.equal, *(end.values() for end in ends)))
