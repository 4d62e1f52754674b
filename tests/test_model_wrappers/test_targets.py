"""Every loss with labels, one-hot labels and probabilities."""

import pickle
from typing import Any

import mmpretrain.models.losses as stock_losses
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from tiny import build_adversarial, classifier_cfg

from m2at_mm.model_wrappers.heads import accepted_targets
from m2at_mm.structures import BatchLabels

CE = 'CrossEntropyLoss'
SMOOTH = dict(type='LabelSmoothLoss', label_smooth_val=0.1)
WEIGHTS = [0.1 * (k + 1) for k in range(10)]
# Settings of mmpretrain's losses, and whether they take labels, probabilities
# and mixtures of two labels, as their documentation or their formula says.
LOSSES: dict[str, tuple[dict[str, Any], tuple[bool, bool, bool]]] = {
    'CE': (dict(type=CE), (True, True, True)),
    'CE, weights': (dict(type=CE, class_weight=WEIGHTS), (True, True, True)),
    'CE, soft': (dict(type=CE, use_soft=True), (False, True, True)),
    'BCE': (dict(type=CE, use_sigmoid=True), (False, True, True)),
    'smooth': (SMOOTH, (True, True, True)),
    'smooth, classy': (dict(SMOOTH, mode='classy_vision'), (True, True, True)),
    'smooth, BCE': (dict(SMOOTH, use_sigmoid=True), (True, True, True)),
    # Takes every probability above 0 for a label of its own.
    'smooth, many': (dict(SMOOTH, mode='multi_label'), (True, False, True)),
    'focal': (dict(type='FocalLoss'), (True, True, True)),
    'asymmetric': (dict(type='AsymmetricLoss'), (True, True, True)),
    'seesaw': (dict(type='SeesawLoss', num_classes=10), (True, False, False)),
}
NO_CLASSIFICATION = {'CAELoss', 'CosineSimilarityLoss', 'SwAVLoss'}
NO_CLASSIFICATION |= {'CrossCorrelationLoss', 'PixelReconstructionLoss'}
MIXUP = dict(augments=dict(type='Mixup', alpha=0.8))
MIXING = dict(num_classes=10, batch_augments=MIXUP)
SOFT: dict[str, dict[str, Any]] = {
    'M2AT, soft': dict(method=dict(type='m2at_mm.M2AT', perturbed_label=0.7)),
    'M2AT, pairs': dict(method=dict(type='m2at_mm.M2AT', pairing='batch')),
    'AVmixup': dict(method=dict(type='m2at_mm.AVmixup')),
    'IAT': dict(method=dict(type='m2at_mm.IAT')),
    'label_smoothing': dict(label_smoothing=0.1),
    'batch_augments': dict(data_preprocessor=MIXING),
}
METHODS = 'Standard PGDAT TRADES MART M2AT'.split()
HARD = {k: dict(method=dict(type=f'm2at_mm.{k}')) for k in METHODS}
LABELS = torch.tensor([3, 1, 4, 1])


def with_loss(name: str) -> dict[str, Any]:
    classifier = classifier_cfg()
    classifier['head']['loss'] = LOSSES[name][0]
    return classifier


def test_the_table_has_every_loss() -> None:
    every = [getattr(stock_losses, name) for name in stock_losses.__all__]
    known = {one.__name__ for one in every if isinstance(one, type)}
    tried = {cfg['type'] for cfg, _ in LOSSES.values()}
    assert known == tried | NO_CLASSIFICATION


@pytest.mark.parametrize('num_classes', [2, 10, 1000])
@pytest.mark.parametrize('name', LOSSES)
def test_what_a_loss_takes(name: str, num_classes: int) -> None:
    settings = dict(LOSSES[name][0])
    settings |= {k: num_classes for k in ('num_classes',) if k in settings}
    if 'class_weight' in settings:
        settings['class_weight'] = [0.5] * (num_classes - 1) + [2.0]
    model = torch.nn.Module()
    model.loss_module = MMPRETRAIN_MODELS.build(settings)
    before = dict(model.loss_module.state_dict())
    assert accepted_targets(model, num_classes) == LOSSES[name][1]
    for key, value in model.loss_module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize('setting', SOFT)
@pytest.mark.parametrize('name', LOSSES)
def test_soft_targets(name: str, setting: str) -> None:
    settings = dict(SOFT[setting], classifier=with_loss(name))
    _, scores, mixtures = LOSSES[name][1]
    if not (mixtures if setting == 'batch_augments' else scores):
        message = r'give soft targets, but loss=\w+Loss takes'
        with pytest.raises(ValueError, match=message):
            build_adversarial(**settings)
        return
    assert_trains(build_adversarial(**settings), 'labels')


@pytest.mark.parametrize('method', HARD)
@pytest.mark.parametrize('name', LOSSES)
def test_hard_targets(name: str, method: str) -> None:
    model = build_adversarial(**HARD[method], classifier=with_loss(name))
    for kind in ('labels', 'one-hot', 'batch', 'batch hot'):
        assert_trains(model, kind)


def assert_trains(model: Any, kind: str) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 8, 8), LABELS
    hot = F.one_hot(labels, 10)
    samples: Any = BatchLabels(labels, hot if kind == 'batch hot' else None)
    if not kind.startswith('batch'):
        samples = [DataSample().set_gt_label(label) for label in labels]
    if kind == 'one-hot':
        for sample, scores in zip(samples, hot):
            sample.set_gt_score(scores)
    losses = model.train()(images, samples, mode='loss')
    sum(v.sum() for k, v in losses.items() if 'loss' in k).backward()
    assert all(bool(value.isfinite().all()) for value in losses.values())


@pytest.mark.parametrize('name', LOSSES)
def test_one_hot_labels_are_labels(name: str) -> None:
    """The same loss as mmpretrain's own, whichever form it takes."""
    settings = dict(HARD['Standard'], classifier=with_loss(name))
    model = build_adversarial(**settings).eval()
    images, labels = torch.rand(4, 3, 8, 8), LABELS
    hot = F.one_hot(labels, 10)
    target = labels if LOSSES[name][1][0] else hot.float()
    with torch.no_grad():
        # A copy of SeesawLoss has counted no labels.
        loss = MMPRETRAIN_MODELS.build(LOSSES[name][0])
        expected = loss(model(images), target, avg_factor=4)
        found = model(images, BatchLabels(labels, hot), mode='loss')
    torch.testing.assert_close(found['loss'], expected)


def test_probabilities_of_a_dataset_are_refused() -> None:
    labels = BatchLabels(torch.zeros(2).long(), torch.full((2, 10), 0.1))
    message = 'takes labels only: give gt_label'
    for name, method in (('seesaw', 'PGDAT'), ('CE', 'MART')):
        model = build_adversarial(**HARD[method], classifier=with_loss(name))
        with pytest.raises(ValueError, match=message):
            model(torch.rand(2, 3, 8, 8), labels, mode='loss')


UNFIT = [('SeesawLoss', dict(num_classes=7)), (CE, dict(reduction='sum'))]
UNFIT += [('CosineSimilarityLoss', {})]


@pytest.mark.parametrize(('kind', 'settings'), UNFIT)
def test_losses_that_take_nothing(kind: str, settings: dict) -> None:
    classifier = classifier_cfg()
    classifier['head']['loss'] = dict(settings, type=kind)
    with pytest.raises(ValueError, match=f"loss='{kind}' takes neither"):
        build_adversarial(classifier=classifier)


GIVEN = torch.tensor([3, 0, 1])
GIVEN_SCORES = torch.eye(4)[GIVEN]


@pytest.mark.parametrize('scores', [None, GIVEN_SCORES], ids=['hard', 'soft'])
def test_all_of_it_moves(scores: torch.Tensor | None) -> None:
    given = BatchLabels(GIVEN, scores)
    assert given.target is (GIVEN if scores is None else GIVEN_SCORES)
    moved = given.to('meta', non_blocking=True)
    assert moved.labels.device.type == moved.target.device.type == 'meta'
    assert (moved.scores is None) == (scores is None)
    assert given.labels.device.type == given.target.device.type == 'cpu'
    # From process to process.
    copy = pickle.loads(pickle.dumps(given))
    assert torch.equal(copy.labels, GIVEN)
    assert torch.equal(copy.target, given.target)
