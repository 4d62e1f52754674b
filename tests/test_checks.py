"""Wrong values of arguments, each named in the error with its remedy."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from tiny import build_adversarial

from m2at_mm import data_preprocessors, hooks
from m2at_mm.backbones import PreActResNet_CIFAR, WideResNet_CIFAR
from m2at_mm.datasets import CIFAR10, CIFAR100, Digits
from m2at_mm.methods import M2AT, MART, TRADES, AVmixup
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.runner import RepeatedBatchTrainLoop

NAN, INF = float('nan'), float('inf')
PGD, COUNT = dict(type='m2at_mm.PGD'), 'must be a whole number of at least 1$'
LEAST_0 = 'must be a finite number, at least 0'
SHARE, BELOW_1 = f'{LEAST_0} and at most 1$', f'{LEAST_0} and below 1$'


def schedule(**changed: Any) -> Any:
    one = dict(param='threat_model.eps', values=[0, 1], milestones=[2, 6])
    return hooks.AttackScheduleHook([one | changed])


PICTURES, GUARD = hooks.AdversarialVisualizationHook, hooks.CollapseGuardHook
OVERFITTING = hooks.RobustOverfittingHook
PREPROCESSOR = data_preprocessors.AdversarialDataPreprocessor
CROPS = data_preprocessors.RandomCropAndFlip
SGD = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
AWP = partial(AWPOptimWrapper, optimizer=SGD)
REPEATED = partial(RepeatedBatchTrainLoop, None, None, max_epochs=1)
TEN = partial(CIFAR10, 'data', lazy_init=True)
HUNDRED = partial(CIFAR100, 'data', lazy_init=True)
# An argument's wrong values, and what is said behind `name=value`.
WRONG: list[tuple[Any, str, list[Any], str]] = [
    (PICTURES, 'interval', [0, 1.5], COUNT),
    (PICTURES, 'num_images', [0, 1.5], COUNT),
    (PICTURES, 'num_rows', [0, 1.5], COUNT),
    (GUARD, 'action', ['restart'], "'rollback'"),
    (GUARD, 'interval', [0], COUNT),
    (GUARD, 'num_images', [0.5], COUNT),
    (GUARD, 'max_gap', [0, 100], 'finite number, above 0 and below 100$'),
    (GUARD, 'step_factor', [1], 'below 1'),
    (GUARD, 'steps', [0, -3, 2.0, '2', None, True], COUNT),
    (hooks.PreemptionHook, 'interval', [0, -1, 1.5, '10'], COUNT),
    (OVERFITTING, 'max_loss', [-1, NAN, '6', True], f'{LEAST_0}$'),
    (CROPS, 'crop_padding', [-1, 1.5, '4'], 'whole number of at least 0$'),
    (CROPS, 'flip_prob', [-0.1, 1.1, NAN], SHARE),
    (PREPROCESSOR, 'pad_size_divisor', [2], 'not supported'),
    (TRADES, 'beta', [-1, INF], 'must be a finite'),
    (MART, 'beta', [-1, INF], 'must be a finite'),
    (AVmixup, 'gamma', [0.5], 'must be a finite'),
    (AVmixup, 'clean_label', [1.1], SHARE),
    (AVmixup, 'vertex_label', [-0.1], SHARE),
    (M2AT, 'mask', ['circle'], r"\['rectangle', 'pixel', 'patch'\]"),
    (M2AT, 'label_order', ['swapped'], r"\['perturbed', 'literal'\]"),
    (M2AT, 'pairing', ['other'], r"\['self', 'batch'\]"),
    (M2AT, 'patch_size', [0, 2.5], COUNT),
    (M2AT, 'mix_alpha', [0.0, -1.0, NAN, INF], 'finite number, above 0$'),
    (M2AT, 'clean_label', [1.5, -0.1], SHARE),
    (M2AT, 'perturbed_label', [2, NAN], 'at most 1'),
    (M2AT, 'scale', [0.5, NAN, INF], 'finite.*at least 1'),
    (M2AT, 'consistency', [-1.0], 'at least 0'),
    (AWP, 'gamma', [-0.1], 'at least 0'),
    (AWP, 'warmup_iters', [-1], 'at least 0'),
    (PreActResNet_CIFAR, 'depth', [20], ''),
    (PreActResNet_CIFAR, 'frozen_stages', [5], ''),
    (WideResNet_CIFAR, 'frozen_stages', [4], ''),
    (WideResNet_CIFAR, 'depth', [30], ''),
    (WideResNet_CIFAR, 'widen_factor', [0], ''),
    (WideResNet_CIFAR, 'drop_rate', [1.0], ''),
    (REPEATED, 'repeats', [0, 1.5], ''),
    (Digits, 'split', ['dev'], "'train', 'val'"),
    (TEN, 'split', ['dev'], ''),
    (TEN, 'val_size', [0, -10, 10.0, '100'], ''),
    (TEN, 'val_size', [15], 'of 10,.* like 100'),
    (HUNDRED, 'val_size', [50], 'multiple of 100'),
    (build_adversarial, 'label_smoothing', [-0.1, 1.0], BELOW_1),
    (schedule, 'milestones', [[3, 3]], 'ascending'),
    (schedule, 'milestones', [[], [-1, 3]], ''),
]
NORM = dict(mean=[123.675, 116.28, 103.53]), dict(std=[58.395, 57.12, 61.5])
# Settings, and another message.
OTHERS: list[tuple[Any, dict[str, Any], str]] = [
    (PREPROCESSOR, NORM[0], 'std=None must be given together'),
    (PREPROCESSOR, NORM[1], 'mean=None and std=.* together'),
    (PREPROCESSOR, dict(augment=dict(crop_padding=-4)), 'crop_padding=-4'),
    (build_adversarial, dict(threat_model=dict(eps=8)), "'8/255'"),
    (build_adversarial, dict(eval_attacks=dict(worst=PGD)), "name 'worst'"),
    (
        build_adversarial,
        dict(method=dict(type='m2at_mm.M2AT', scale=0.5)),
        'scale=0.5',
    ),
    (build_adversarial, dict(train_attack=dict(PGD, steps=0)), 'steps=0'),
    (schedule, dict(param=None), 'needs param'),
    (schedule, dict(curve='log'), "'log' .*'linear', 'cosine', 'step'"),
    (schedule, dict(values=[1.0]), 'needs 2 values and 2 milestones.*1 and 2'),
    (schedule, dict(curve='step'), 'needs 3 values and 2 milestones'),
    (schedule, dict(values=['x', 1]), "values of 'threat_model.eps'='x'"),
    (schedule, dict(end=3), r"unknown settings \['end'\]"),
]
NAMED = []
for make, name, values, words in WRONG:
    for one in values:
        message = f'{name}={re.escape(repr(one))} .*{words}'
        NAMED.append((make, {name: one}, message))


@pytest.mark.parametrize(('make', 'settings', 'message'), [*NAMED, *OTHERS])
def test_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_ends_of_a_range_are_taken() -> None:
    M2AT(clean_label=0, perturbed_label=1, patch_size=1, scale=1)
    OVERFITTING(0)
    build_adversarial(label_smoothing=0)
