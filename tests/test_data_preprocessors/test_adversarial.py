from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsDataPreprocessor, SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from m2at_mm.data_preprocessors import (
    AdversarialDataPreprocessor,
    take_over_preprocessing,
)
from m2at_mm.registry import MODELS
from m2at_mm.structures import BatchLabels

# Three different channels, so that a mixed-up order shows.
NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 61.5])
GRAY = dict(mean=[120.0], std=[60.0])
LABELS = [0, 1, 2, 3, 4, 0]
LAST = torch.channels_last
TRAINING = pytest.mark.parametrize('training', [True, False])


def pixels(channels: int = 3) -> Tensor:
    """uint8, shape (6, C, 8, 10)."""
    rng = torch.Generator().manual_seed(0)
    shape = (6, channels, 8, 10)
    return torch.randint(256, shape, generator=rng, dtype=torch.uint8)


def samples(labels: list[int] = LABELS) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


def whole(labels: list[int] = LABELS) -> BatchLabels:
    return BatchLabels(torch.tensor(labels))


def run(
    inputs: Any, labels: Any = None, training: bool = False, **settings: Any
) -> dict[str, Any]:
    """A batch through a new preprocessor for five classes."""
    kind = settings.pop('kind', AdversarialDataPreprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        preprocessor = kind(**dict(num_classes=5) | settings)
    return preprocessor(dict(inputs=inputs, data_samples=labels), training)


INPUTS = {
    'list': lambda: list(pixels()),
    'tensor': pixels,
    'float-list': lambda: [image.float() for image in pixels()],
    'float-tensor': lambda: pixels().float(),
    'channels-last': lambda: pixels().float().to(memory_format=LAST),
    'gray': lambda: list(pixels(channels=1)),
}


@pytest.mark.parametrize('kind', INPUTS)
@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('norm', [True, False], ids=['norm', 'plain'])
@TRAINING
def test_normalised_batch_is_the_stock_one(
    kind: str, to_rgb: bool, norm: bool, training: bool
) -> None:
    settings: dict[str, Any] = dict(to_rgb=to_rgb)
    if norm:
        settings.update(GRAY if kind == 'gray' else NORM)
    given, again = INPUTS[kind](), INPUTS[kind]()
    batch = run(given, samples(), training, **settings)
    # What is given stays as it is.
    assert all(torch.equal(one, before) for one, before in zip(given, again))
    stock = dict(settings, kind=ClsDataPreprocessor)
    expected = run(given, samples(), training, **stock)
    images = batch['inputs']
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=LAST)
    assert images.min() == 0 and images.max() == 1
    plain = pixels(images.size(1)) / 255
    if to_rgb:
        plain = plain.flip(1)  # one gray channel stays
    assert torch.allclose(images, plain, atol=1e-7)
    seen = AdversarialDataPreprocessor(**settings).normalize(images)
    scale = 1 if norm else 255  # of what the network sees
    assert (seen - expected['inputs']).abs().max() < 1e-5 * scale
    assert [int(one.gt_label) for one in batch['data_samples']] == LABELS


@pytest.mark.parametrize('kind', ['list', 'tensor', 'float-tensor'])
def test_another_memory_layout_and_no_labels(kind: str) -> None:
    preprocessor = AdversarialDataPreprocessor(num_classes=5)
    preprocessor.memory_format = torch.contiguous_format
    batch = preprocessor(dict(inputs=INPUTS[kind]()))
    assert batch['inputs'].is_contiguous()
    assert batch['inputs'].shape == (6, 3, 8, 10)
    assert batch['data_samples'] is None


MIXUP, CUTMIX = (dict(type=name, alpha=1.0) for name in ('Mixup', 'CutMix'))


@pytest.mark.parametrize('kind', ['list', 'tensor'])
@pytest.mark.parametrize('augments', [[MIXUP], [CUTMIX], [MIXUP, CUTMIX]])
@TRAINING
def test_augments_mix_alike(kind: str, augments: list, training: bool) -> None:
    """Also with the labels in one object."""
    settings = dict(NORM, batch_augments=dict(augments=augments))
    one, results = whole(), []
    for cls, labels in (
        (ClsDataPreprocessor, samples()),
        (AdversarialDataPreprocessor, samples()),
        (AdversarialDataPreprocessor, one),
    ):
        np.random.seed(1)
        torch.manual_seed(1)
        given = INPUTS[kind]()
        results.append(run(given, labels, training, kind=cls, **settings))
    stock, ours, other = results
    assert ours['inputs'].min() >= 0 and ours['inputs'].max() <= 1
    seen = AdversarialDataPreprocessor(**NORM).normalize(ours['inputs'])
    assert (seen - stock['inputs']).abs().max() < 1e-5
    scores, expected = (
        torch.stack([sample.gt_score for sample in batch['data_samples']])
        for batch in (ours, stock)
    )
    assert torch.equal(scores, expected)
    assert torch.allclose(scores.sum(1).float(), torch.ones(6))
    assert bool((scores > 0).sum(1).max() > 1) == training
    assert torch.equal(other['inputs'], ours['inputs'])
    assert torch.equal(other['data_samples'].scores, scores.float())
    assert other['data_samples'].labels.tolist() == LABELS
    assert one.scores is None  # of the caller
    # Labels in one object, without mixing.
    found = run(pixels(), whole(), True)
    assert torch.equal(found['inputs'], run(pixels(), samples())['inputs'])
    assert found['data_samples'].labels.tolist() == LABELS
    assert found['data_samples'].scores is None


def test_normalize_keeps_gradients_and_nothing_in_the_checkpoint() -> None:
    preprocessor = AdversarialDataPreprocessor(**NORM, num_classes=5)
    assert len(list(preprocessor.buffers())) == 2
    assert preprocessor.state_dict() == {}
    images = (pixels() / 255).requires_grad_(True)
    preprocessor.normalize(images).sum().backward()
    expected = 255 / torch.tensor(NORM['std']).view(3, 1, 1)
    torch.testing.assert_close(images.grad, expected.expand_as(images))


def test_mixed_white_pixels_stay_in_the_box() -> None:
    """0.7 * 255 + 0.3 * 255 can round to above 255."""
    np.random.seed(0)
    white = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    mix = dict(augments=MIXUP)
    for _ in range(60):
        batch = run(white, samples([0, 1]), True, batch_augments=mix)
        assert batch['inputs'].max() <= 1


SIZES = [torch.zeros(3, 8, 10), torch.zeros(3, 8, 8)]
UNIT = pixels() / 255
TO_TENSOR = 'as torchvision/ToTensor scales'
PIXELS: list[tuple[Any, str]] = [
    (pixels() / 127.5 - 1, r'\[-1, 1\]: remove the norm'),
    (list(pixels().float() - 100), r'\[-100, 15\d\]: rem'),
    (pixels().float() * 2, r'\[0, 510\]: remove the norm'),
    (pixels().short() - 1, r'\[-1, 254\]: remove the norm'),
    (SIZES, r'\(3, 8, 8\), \(3, 8, 10\).*a padded border.*resize'),
    *((unit, TO_TENSOR) for unit in (UNIT, list(UNIT), UNIT.half(), UNIT[:1])),
]


@pytest.mark.parametrize('augment', [None, dict(crop_padding=2)])
@pytest.mark.parametrize(('inputs', 'message'), PIXELS)
def test_pixels_are_refused(inputs: Any, message: str, augment: Any) -> None:
    with pytest.raises(ValueError, match=message):
        run(inputs, None, True, augment=augment, **NORM)


def test_dark_pixels_are_not_refused() -> None:
    for inputs in (
        [UNIT[0], pixels()[1].float()],
        pixels().float() * 0,
        pixels().float() % 2,
        pixels() * 0,
        pixels() % 2,
    ):
        expected = torch.stack([one.float() / 255 for one in inputs])
        torch.testing.assert_close(run(inputs)['inputs'], expected)
    # A dim batch is known by the scale of an earlier one, but that of
    # training says nothing of another pipeline.
    preprocessor = AdversarialDataPreprocessor()
    preprocessor(dict(inputs=pixels().float()), True)
    preprocessor(dict(inputs=UNIT), True)
    with pytest.raises(ValueError, match=TO_TENSOR):
        preprocessor(dict(inputs=UNIT))


def labelled(field: str, value: Tensor) -> list[DataSample]:
    given = samples()
    given[2].set_field(value, field)
    given[2].set_field('cat.png', 'img_path', field_type='metainfo')
    return given


@TRAINING
@pytest.mark.parametrize('label', [5, -1])
def test_label_outside_the_classes(label: int, training: bool) -> None:
    found = rf'label {label} of image %s .*0 to 4'
    given = labelled('gt_label', torch.tensor([label]))
    with pytest.raises(ValueError, match=found % r'cat\.png'):
        run(pixels(), given, training)
    with pytest.raises(ValueError, match=found % '2 of the batch'):
        run(pixels(), whole([0, 4, label, 0, 0, 0]), training)


WRONG_LABELS = [
    ('gt_label', torch.tensor([1, 2]), r'int64 of shape \(2,\)'),
    ('gt_label', torch.tensor([1.0]), 'float32 of shape'),
    ('gt_label', torch.zeros(0).long(), r'shape \(0,\)'),
    ('gt_score', torch.ones(5), 'add up to 5'),
    ('gt_score', torch.ones(4) / 4, '4 classes, but the model has 5'),
    ('gt_score', torch.tensor([2.0, -1, 0, 0, 0]), 'no probabilities'),
    ('gt_score', torch.full((5,), torch.nan), 'no probabilities'),
]


@pytest.mark.parametrize(('field', 'value', 'message'), WRONG_LABELS)
def test_label_of_a_wrong_kind(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf'{field} of image cat.*{message}'):
        run(pixels(), labelled(field, value))


def test_scores_are_taken_but_no_other_labels_of_a_batch() -> None:
    for scores in (torch.eye(5)[3], torch.eye(5)[3].long()):
        run(pixels()[:1], labelled('gt_score', scores)[2:3])
    for labels in (torch.zeros(6, 1).long(), torch.zeros(6)):
        with pytest.raises(TypeError, match='target must be labels'):
            run(pixels(), BatchLabels(labels), True)
    with pytest.raises(ValueError, match='set num_classes'):
        run(pixels(), whole(), True, num_classes=None, to_onehot=True)


KINDS: list[Any] = [ClsDataPreprocessor, AdversarialDataPreprocessor]
KINDS += ['ClsDataPreprocessor', 'mmpretrain.ClsDataPreprocessor']
KINDS += ['m2at_mm.AdversarialDataPreprocessor']


@pytest.mark.parametrize('typed', [{}, *(dict(type=kind) for kind in KINDS)])
@pytest.mark.parametrize('place', ['outside', 'inside', 'both'])
def test_settings_are_taken_over(typed: dict, place: str) -> None:
    settings = dict(typed, **NORM, to_rgb=True, num_classes=10)
    inner, outer = dict(type='ImageClassifier'), None
    if place == 'outside':
        outer = settings
    else:
        inner['data_preprocessor'] = settings
    if place == 'both':
        # As in a stock config, the model's own go first, but crops stay.
        outer = dict(mean=[0, 0, 0], std=[1, 1, 1], augment={})
    before = dict(inner)
    classifier, found = take_over_preprocessing(inner, outer)
    assert inner == before and classifier == dict(type='ImageClassifier')
    built = MODELS.build(found)
    assert type(built) is AdversarialDataPreprocessor
    assert built.mean.flatten().tolist() == pytest.approx(NORM['mean'])
    assert built.std.flatten().tolist() == pytest.approx(NORM['std'])
    assert built.to_rgb and built.num_classes == 10
    assert (built.augment is not None) == (place == 'both')


def test_train_cfg_and_modules_are_taken_over_but_no_other_kind() -> None:
    mixup = dict(augments=MIXUP)
    classifier, found = take_over_preprocessing(dict(train_cfg=mixup), None)
    assert classifier == {} and found['batch_augments'] == mixup
    module = AdversarialDataPreprocessor()
    assert take_over_preprocessing({}, module) == ({}, module)
    for kind in ('SelfSupDataPreprocessor', SelfSupDataPreprocessor):
        with pytest.raises(ValueError, match=r'SelfSupDataPrepro.* be taken'):
            take_over_preprocessing({}, dict(type=kind))
