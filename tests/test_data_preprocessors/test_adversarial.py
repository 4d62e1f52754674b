from __future__ import annotations

from typing import Any

import mmengine
import mmpretrain.registry
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsDataPreprocessor, SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from m2at_mm.data_preprocessors import (
    AdversarialDataPreprocessor,
    RandomCropAndFlip,
)
from m2at_mm.data_preprocessors.adversarial import take_over_preprocessing
from m2at_mm.registry import MODELS
from m2at_mm.structures import BatchLabels

# Three different channels, so that a mixed-up order shows.
NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 61.5])
GRAY = dict(mean=[120.0], std=[60.0])
LABELS = [0, 1, 2, 3, 4, 0]
Inputs = Tensor | list


def pixels(channels: int = 3) -> Tensor:
    """uint8, shape (6, C, 8, 10)."""
    rng = torch.Generator().manual_seed(0)
    shape = (6, channels, 8, 10)
    return torch.randint(256, shape, generator=rng, dtype=torch.uint8)


def samples(labels: list[int] = LABELS) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


def run(
    inputs: Inputs, labels: Any = None, training: bool = False, **settings: Any
) -> dict[str, Any]:
    """A batch through a new preprocessor for five classes."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        settings = dict(num_classes=5) | settings
        preprocessor = AdversarialDataPreprocessor(**settings)
    return preprocessor(dict(inputs=inputs, data_samples=labels), training)


INPUTS = {
    'list': lambda: list(pixels()),
    'tensor': pixels,
    'float-list': lambda: [image.float() for image in pixels()],
    'float-tensor': lambda: pixels().float(),
    'channels-last': lambda: (
        pixels().float().contiguous(memory_format=torch.channels_last)
    ),
    'gray': lambda: list(pixels(channels=1)),
}


@pytest.mark.parametrize('kind', INPUTS)
@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('norm', [True, False], ids=['norm', 'plain'])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'test'])
def test_normalised_batch_is_the_stock_one(
    kind: str, to_rgb: bool, norm: bool, training: bool
) -> None:
    settings: dict[str, Any] = dict(to_rgb=to_rgb)
    if norm:
        settings.update(GRAY if kind == 'gray' else NORM)
    ours = AdversarialDataPreprocessor(**settings)
    stock = ClsDataPreprocessor(**settings)
    given = INPUTS[kind]()
    batch = ours(dict(inputs=given, data_samples=samples()), training)
    # What is given stays as it is.
    for one, before in zip(given, INPUTS[kind]()):
        assert torch.equal(one, before)
    expected = stock(dict(inputs=given, data_samples=samples()), training)

    images = batch['inputs']
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.min() == 0 and images.max() == 1
    plain = pixels(images.size(1)) / 255
    if to_rgb:
        plain = plain.flip(1)  # one gray channel stays
    assert torch.allclose(images, plain, atol=1e-7)
    seen = ours.normalize(images)
    scale = 1 if norm else 255  # of what the network sees
    assert (seen - expected['inputs']).abs().max() < 1e-5 * scale
    assert [int(one.gt_label) for one in batch['data_samples']] == LABELS


@pytest.mark.parametrize('kind', ['list', 'tensor', 'float-tensor'])
def test_another_memory_layout(kind: str) -> None:
    preprocessor = AdversarialDataPreprocessor()
    preprocessor.memory_format = torch.contiguous_format
    assert preprocessor(dict(inputs=INPUTS[kind]()))['inputs'].is_contiguous()


def test_without_labels() -> None:
    batch = AdversarialDataPreprocessor(num_classes=5)(dict(inputs=pixels()))
    assert batch['inputs'].shape == (6, 3, 8, 10)
    assert batch['data_samples'] is None


MIXUP, CUTMIX = (dict(type=name, alpha=1.0) for name in ('Mixup', 'CutMix'))


@pytest.mark.parametrize('kind', ['list', 'tensor'])
@pytest.mark.parametrize('augments', [[MIXUP], [CUTMIX], [MIXUP, CUTMIX]])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'test'])
def test_batch_augments_mix_as_the_stock_ones(
    kind: str, augments: list[dict], training: bool
) -> None:
    """Also with the labels in one object."""
    whole = BatchLabels(torch.tensor(LABELS))
    results = []
    for cls, labels in (
        (ClsDataPreprocessor, samples()),
        (AdversarialDataPreprocessor, samples()),
        (AdversarialDataPreprocessor, whole),
    ):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            mix = dict(augments=augments)
            preprocessor = cls(**NORM, num_classes=5, batch_augments=mix)
        np.random.seed(1)
        torch.manual_seed(1)
        data = dict(inputs=INPUTS[kind](), data_samples=labels)
        results.append(preprocessor(data, training))
    stock, ours, other = results
    assert ours['inputs'].min() >= 0 and ours['inputs'].max() <= 1
    seen = preprocessor.normalize(ours['inputs'])
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
    assert whole.scores is None  # of the caller


def test_labels_in_one_object_without_mixing() -> None:
    labels = BatchLabels(torch.tensor(LABELS))
    found = run(pixels(), labels, True)
    assert torch.equal(found['inputs'], run(pixels(), samples())['inputs'])
    assert found['data_samples'].labels.tolist() == LABELS
    assert found['data_samples'].scores is None


def test_mean_and_std_are_not_in_the_checkpoint() -> None:
    preprocessor = AdversarialDataPreprocessor(**NORM, num_classes=5)
    assert len(list(preprocessor.buffers())) == 2
    assert preprocessor.state_dict() == {}


def test_normalize_keeps_gradients() -> None:
    images = (pixels() / 255).requires_grad_(True)
    AdversarialDataPreprocessor(**NORM).normalize(images).sum().backward()
    expected = 255 / torch.tensor(NORM['std']).view(3, 1, 1).expand(
        6, 3, 8, 10
    )
    torch.testing.assert_close(images.grad, expected)


@pytest.mark.parametrize('library', [mmengine, mmpretrain])
def test_built_from_the_settings_of_a_stock_config(library: Any) -> None:
    cfg = dict(NORM, type='m2at_mm.AdversarialDataPreprocessor', to_rgb=True)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = library.registry.MODELS.build(dict(cfg, num_classes=1000))
    assert type(built) is AdversarialDataPreprocessor
    assert built.num_classes == 1000 and built.to_rgb


def test_mixed_white_pixels_stay_in_the_box() -> None:
    """0.7 * 255 + 0.3 * 255 can round to above 255."""
    np.random.seed(0)
    white = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    mix = dict(augments=MIXUP)
    for _ in range(60):
        batch = run(white, samples([0, 1]), True, batch_augments=mix)
        assert batch['inputs'].max() <= 1


# --- crops and flips --------------------------------------------------------

CROPS = dict(crop_padding=2, flip_prob=0.5)


@pytest.mark.parametrize('kind', ['list', 'tensor', 'float-tensor'])
@pytest.mark.parametrize('to_rgb', [True, False])
def test_training_batches_are_cropped_and_flipped(
    kind: str, to_rgb: bool
) -> None:
    settings = dict(augment=CROPS, to_rgb=to_rgb)
    torch.manual_seed(1)
    images = run(INPUTS[kind](), None, True, **settings)['inputs']
    torch.manual_seed(1)
    expected = RandomCropAndFlip(2, 0.5)(pixels()) / 255
    assert torch.equal(images, expected.flip(1) if to_rgb else expected)
    assert not torch.equal(expected, pixels() / 255)


def test_other_batches_are_left_and_draw_nothing() -> None:
    before = torch.get_rng_state()
    images = run(pixels(), augment=CROPS)['inputs']
    assert torch.equal(images, pixels() / 255)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_whole_batch_waits_for_nothing() -> None:
    """On a device without values: whatever looked at one would raise."""
    preprocessor = AdversarialDataPreprocessor(
        **NORM, num_classes=5, augment=CROPS
    ).to('meta')
    labels = BatchLabels(torch.tensor(LABELS))
    batch = preprocessor(dict(inputs=pixels(), data_samples=labels), True)
    assert batch['inputs'].device.type == 'meta'
    assert batch['inputs'].shape == (6, 3, 8, 10)
    assert batch['data_samples'].labels.device.type == 'meta'


# --- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(pad_size_divisor=2), 'pad_size_divisor=2 is not supported'),
        (dict(mean=NORM['mean']), 'std=None must be given together'),
        (dict(std=NORM['std']), 'mean=None and std=.* together'),
        (dict(augment=dict(crop_padding=-4)), 'crop_padding=-4'),
    ],
    ids=['padding', 'mean-alone', 'std-alone', 'augment'],
)
def test_bad_setting(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialDataPreprocessor(**settings)


SIZES = [torch.zeros(3, 8, 10), torch.zeros(3, 8, 8)]
UNIT = pixels() / 255
TO_TENSOR = 'as torchvision/ToTensor scales'
PIXELS: dict[str, tuple[Inputs, str]] = {
    'normalised': (pixels() / 127.5 - 1, r'\[-1, 1\]: remove the norm'),
    'mean-subtracted': (list(pixels().float() - 100), r'\[-100, 15\d\]: rem'),
    'too large': (pixels().float() * 2, r'\[0, 510\]: remove the norm'),
    'integers': (pixels().short() - 1, r'\[-1, 254\]: remove the norm'),
    'sizes': (SIZES, r'\(3, 8, 8\), \(3, 8, 10\).*a padded border.*resize'),
    'ToTensor': (UNIT, TO_TENSOR),
    'ToTensor, a list': (list(UNIT), TO_TENSOR),
    'ToTensor, half': (UNIT.half(), TO_TENSOR),
    'ToTensor, one image': (UNIT[:1], TO_TENSOR),
}


@pytest.mark.parametrize('augment', [None, CROPS])
@pytest.mark.parametrize('kind', PIXELS)
def test_pixels_that_are_refused(kind: str, augment: dict | None) -> None:
    inputs, message = PIXELS[kind]
    with pytest.raises(ValueError, match=message):
        run(inputs, None, True, augment=augment, **NORM)


@pytest.mark.parametrize(
    'inputs',
    [
        [UNIT[0], pixels()[1].float()],
        torch.zeros(2, 3, 4, 4),
        pixels().float() % 2,
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        pixels() % 2,
    ],
    ids=['one dim', 'black', 'almost black', 'black uint8', 'dark uint8'],
)
def test_dark_pixels_are_not_refused(inputs: Inputs) -> None:
    expected = torch.stack([one.float() / 255 for one in inputs])
    torch.testing.assert_close(run(inputs)['inputs'], expected)


def test_a_dim_batch_is_known_by_the_scale_of_an_earlier_one() -> None:
    """That of training says nothing of another pipeline."""
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


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('label', [5, -1])
def test_label_outside_the_classes(label: int, training: bool) -> None:
    found = rf'label {label} of image %s .*0 to 4'
    given = labelled('gt_label', torch.tensor([label]))
    with pytest.raises(ValueError, match=found % r'cat\.png'):
        run(pixels(), given, training)
    whole = BatchLabels(torch.tensor([0, 4, label, 0, 0, 0]))
    with pytest.raises(ValueError, match=found % '2 of the batch'):
        run(pixels(), whole, training)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('gt_label', torch.tensor([1, 2]), r'int64 of shape \(2,\)'),
        ('gt_label', torch.tensor([1.0]), 'float32 of shape'),
        ('gt_label', torch.zeros(0).long(), r'shape \(0,\)'),
        ('gt_score', torch.ones(5), 'add up to 5'),
        ('gt_score', torch.ones(4) / 4, '4 classes, but the model has 5'),
        ('gt_score', torch.tensor([2.0, -1, 0, 0, 0]), 'no probabilities'),
        ('gt_score', torch.full((5,), torch.nan), 'no probabilities'),
    ],
)
def test_label_of_a_wrong_kind(
    field: str, value: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=rf'{field} of image cat.*{message}'):
        run(pixels(), labelled(field, value))


@pytest.mark.parametrize('dtype', [torch.float32, torch.int64], ids=str)
def test_scores_of_an_image_are_taken(dtype: torch.dtype) -> None:
    run(pixels()[:1], labelled('gt_score', torch.eye(5)[3].to(dtype))[2:3])


def test_whole_batch_with_labels_of_a_wrong_kind() -> None:
    for labels in (torch.zeros(6, 1).long(), torch.zeros(6)):
        with pytest.raises(TypeError, match='target must be labels'):
            run(pixels(), BatchLabels(labels), True)
    labels = BatchLabels(torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match='set num_classes'):
        run(pixels(), labels, True, num_classes=None, to_onehot=True)


# --- settings of a classifier's config --------------------------------------

OTHER = dict(mean=[0, 0, 0], std=[1, 1, 1])
KINDS = [
    'ClsDataPreprocessor',
    'mmpretrain.ClsDataPreprocessor',
    ClsDataPreprocessor,
    'm2at_mm.AdversarialDataPreprocessor',
    AdversarialDataPreprocessor,
]


@pytest.mark.parametrize('typed', [{}, *(dict(type=kind) for kind in KINDS)])
@pytest.mark.parametrize('place', ['outside', 'inside', 'both'])
def test_settings_are_taken_over(typed: dict, place: str) -> None:
    settings = dict(typed, **NORM, to_rgb=True, num_classes=10)
    inner = dict(type='ImageClassifier', data_preprocessor=settings)
    # As in a stock config, the model's own go first; crops of the data stay.
    outer = dict(OTHER, augment={}) if place == 'both' else None
    if place == 'outside':
        del inner['data_preprocessor']
        outer = settings
    before = dict(inner)
    classifier, found = take_over_preprocessing(inner, outer)
    assert inner == before and classifier == dict(type='ImageClassifier')
    built = MODELS.build(found)
    assert type(built) is AdversarialDataPreprocessor
    assert built.mean.flatten().tolist() == pytest.approx(NORM['mean'])
    assert built.std.flatten().tolist() == pytest.approx(NORM['std'])
    assert built.to_rgb and built.num_classes == 10
    assert (built.augment is not None) == (place == 'both')


def test_augmentations_of_train_cfg_and_modules_are_taken_over() -> None:
    mixup = dict(augments=MIXUP)
    classifier, found = take_over_preprocessing(dict(train_cfg=mixup), None)
    assert classifier == {} and found['batch_augments'] == mixup
    module = AdversarialDataPreprocessor()
    assert take_over_preprocessing({}, module) == ({}, module)


@pytest.mark.parametrize(
    'kind', ['SelfSupDataPreprocessor', SelfSupDataPreprocessor]
)
def test_a_preprocessor_of_another_kind_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r'SelfSupDataPrepro.*cannot be take'):
        take_over_preprocessing({}, dict(type=kind))
