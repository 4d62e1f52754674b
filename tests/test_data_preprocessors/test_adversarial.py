from __future__ import annotations

from typing import Any

import mmengine.registry
import mmpretrain.registry
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope, Registry
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
Inputs = Tensor | list


def pixels(channels: int = 3) -> Tensor:
    """uint8, shape (6, C, 8, 10)."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(
        256, (6, channels, 8, 10), generator=rng, dtype=torch.uint8
    )


def samples(labels: list[int] | None = None) -> list[DataSample]:
    if labels is None:
        labels = [0, 1, 2, 3, 4, 0]
    return [DataSample().set_gt_label(label) for label in labels]


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

    batch = ours(dict(inputs=INPUTS[kind](), data_samples=samples()), training)
    expected = stock(
        dict(inputs=INPUTS[kind](), data_samples=samples()), training
    )

    images = batch['inputs']
    assert images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    plain = pixels(images.size(1)) / 255
    if to_rgb:
        plain = plain.flip(1)  # one gray channel stays
    assert torch.allclose(images, plain, atol=1e-7)
    seen = ours.normalize(images)
    scale = 1 if norm else 255  # of what the network sees
    assert (seen - expected['inputs']).abs().max() < 1e-5 * scale
    labels = [sample.gt_label.item() for sample in batch['data_samples']]
    assert labels == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize('kind', INPUTS)
def test_the_given_pixels_stay_as_they_are(kind: str) -> None:
    inputs, expected = INPUTS[kind](), INPUTS[kind]()

    AdversarialDataPreprocessor()(dict(inputs=inputs))

    for given, before in zip(inputs, expected):
        assert torch.equal(given, before)


@pytest.mark.parametrize('kind', ['list', 'tensor', 'float-tensor'])
@pytest.mark.parametrize(
    'layout', [None, torch.channels_last, torch.contiguous_format], ids=str
)
def test_memory_layout(kind: str, layout: torch.memory_format | None) -> None:
    preprocessor = AdversarialDataPreprocessor()
    if layout is not None:
        preprocessor.memory_format = layout

    images = preprocessor(dict(inputs=INPUTS[kind]()))['inputs']

    assert images.is_contiguous(memory_format=layout or torch.channels_last)


def test_without_labels() -> None:
    batch = AdversarialDataPreprocessor(num_classes=5)(dict(inputs=pixels()))

    assert batch['inputs'].shape == (6, 3, 8, 10)
    assert batch['data_samples'] is None


AUGMENTS = {
    'mixup': dict(type='Mixup', alpha=1.0),
    'cutmix': dict(type='CutMix', alpha=1.0),
}


@pytest.mark.parametrize('kind', ['list', 'tensor'])
@pytest.mark.parametrize(
    'augments',
    [['mixup'], ['cutmix'], ['mixup', 'cutmix']],
    ids='-'.join,
)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'test'])
def test_batch_augments_mix_as_the_stock_ones(
    kind: str, augments: list[str], training: bool
) -> None:
    results = []
    for cls in (AdversarialDataPreprocessor, ClsDataPreprocessor):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            preprocessor = cls(
                **NORM,
                num_classes=5,
                batch_augments=dict(
                    augments=[AUGMENTS[name] for name in augments]
                ),
            )
        np.random.seed(1)
        torch.manual_seed(1)
        batch = preprocessor(
            dict(inputs=INPUTS[kind](), data_samples=samples()), training
        )
        if cls is AdversarialDataPreprocessor:
            assert batch['inputs'].min() >= 0 and batch['inputs'].max() <= 1
            batch['inputs'] = preprocessor.normalize(batch['inputs'])
        results.append(batch)

    ours, stock = results
    assert (ours['inputs'] - stock['inputs']).abs().max() < 1e-5
    scores, expected = (
        torch.stack([sample.gt_score for sample in batch['data_samples']])
        for batch in results
    )
    assert torch.equal(scores, expected)
    assert torch.allclose(scores.sum(1).float(), torch.ones(6))
    mixed = (scores > 0).sum(1).max() > 1
    assert bool(mixed) == training


@pytest.mark.parametrize(
    ('inputs', 'shown'),
    [
        (pixels().float() / 127.5 - 1, r'\[-1, 1\]'),
        (list(pixels().float() - 100), r'\[-100, 15\d\]'),
        (pixels().float() * 2, r'\[0, 510\]'),
        (pixels().short() - 1, r'\[-1, 254\]'),
    ],
    ids=['normalised', 'mean-subtracted', 'too-large', 'integers'],
)
def test_pixels_outside_0_255(inputs: Inputs, shown: str) -> None:
    preprocessor = AdversarialDataPreprocessor(**NORM)

    with pytest.raises(
        ValueError, match=rf'{shown}: remove the normalisation'
    ):
        preprocessor(dict(inputs=inputs))


@pytest.mark.parametrize('label', [5, -1])
@pytest.mark.parametrize('training', [True, False])
def test_label_outside_the_classes(label: int, training: bool) -> None:
    data_samples = samples([0, 4, label, 0, 0, 0])
    data_samples[2].set_field('cat.png', 'img_path', field_type='metainfo')
    preprocessor = AdversarialDataPreprocessor(num_classes=5)

    with pytest.raises(
        ValueError, match=rf'label {label} of image cat\.png .*0 to 4'
    ):
        preprocessor(
            dict(inputs=pixels(), data_samples=data_samples), training
        )


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(pad_size_divisor=2), 'pad_size_divisor=2 is not supported'),
        (dict(mean=NORM['mean']), 'std=None must be given together'),
        (dict(std=NORM['std']), 'mean=None and std=.* together'),
    ],
    ids=['padding', 'mean-alone', 'std-alone'],
)
def test_bad_setting(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialDataPreprocessor(**settings)


def test_mean_and_std_are_not_in_the_checkpoint() -> None:
    preprocessor = AdversarialDataPreprocessor(**NORM, num_classes=5)

    assert len(list(preprocessor.buffers())) == 2
    assert preprocessor.state_dict() == {}


def test_normalize_keeps_gradients() -> None:
    images = (pixels() / 255).requires_grad_(True)

    AdversarialDataPreprocessor(**NORM).normalize(images).sum().backward()

    assert images.grad is not None
    for channel, std in enumerate(NORM['std']):
        expected = torch.full((6, 8, 10), 255 / std)
        assert torch.allclose(images.grad[:, channel], expected)


@pytest.mark.parametrize(
    'registry',
    [mmengine.registry.MODELS, mmpretrain.registry.MODELS],
    ids=['mmengine', 'mmpretrain'],
)
def test_built_from_the_settings_of_a_stock_config(registry: Registry) -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = registry.build(
            dict(
                type='m2at_mm.AdversarialDataPreprocessor',
                num_classes=1000,
                to_rgb=True,
                **NORM,
            )
        )

    assert type(built) is AdversarialDataPreprocessor
    assert built.num_classes == 1000 and built.to_rgb


def test_mixed_white_pixels_stay_in_the_box() -> None:
    """0.7 * 255 + 0.3 * 255 can round to above 255."""
    preprocessor = AdversarialDataPreprocessor(
        num_classes=10,
        batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)),
    )
    np.random.seed(0)
    for _ in range(60):
        samples = [DataSample().set_gt_label(n) for n in range(2)]
        pixels = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
        batch = preprocessor(
            dict(inputs=pixels, data_samples=samples), training=True
        )
        assert batch['inputs'].max() <= 1


# --- crops and flips, and labels in one object ------------------------------


@pytest.mark.parametrize('kind', ['list', 'tensor', 'float-tensor'])
@pytest.mark.parametrize('to_rgb', [True, False])
def test_training_batches_are_cropped_and_flipped(
    kind: str, to_rgb: bool
) -> None:
    preprocessor = AdversarialDataPreprocessor(
        augment=dict(crop_padding=2, flip_prob=0.5), to_rgb=to_rgb
    )
    torch.manual_seed(1)
    images = preprocessor(dict(inputs=INPUTS[kind]()), True)['inputs']
    torch.manual_seed(1)
    expected = RandomCropAndFlip(2, 0.5)(pixels()) / 255
    assert torch.equal(images, expected.flip(1) if to_rgb else expected)
    assert not torch.equal(expected, pixels() / 255)


def test_other_batches_are_left_and_draw_nothing() -> None:
    preprocessor = AdversarialDataPreprocessor(
        augment=dict(crop_padding=2, flip_prob=0.5)
    )
    before = torch.get_rng_state()
    images = preprocessor(dict(inputs=pixels()))['inputs']
    assert torch.equal(images, pixels() / 255)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_several_sizes_cannot_be_cropped_together() -> None:
    preprocessor = AdversarialDataPreprocessor(augment=dict(crop_padding=2))
    images = [torch.zeros(3, 8, 10), torch.zeros(3, 8, 8)]
    with pytest.raises(ValueError, match=r'\(3, 8, 8\), \(3, 8, 10\).*resize'):
        preprocessor(dict(inputs=images), True)
    with pytest.raises(ValueError, match='a padded border would be attacked'):
        AdversarialDataPreprocessor()(dict(inputs=images))


def in_unit_range(num: int = 6) -> Tensor:
    return pixels()[:num] / 255


SCALES: dict[str, tuple[Inputs, bool]] = {
    'ToTensor': (in_unit_range(), False),
    'ToTensor, a list': (list(in_unit_range()), False),
    'ToTensor, half': (in_unit_range().half(), False),
    'ToTensor, one image': (in_unit_range(1), False),
    'a dim image among others': (
        [in_unit_range()[0], pixels()[1].float()],
        True,
    ),
    'black': (torch.zeros(2, 3, 4, 4), True),
    'black and almost black': (pixels().float() % 2, True),
    'black, uint8': (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), True),
    'almost black, uint8': (pixels() % 2, True),
    '0-255, float': (pixels().float(), True),
}


@pytest.mark.parametrize('kind', SCALES)
def test_pixels_scaled_already_are_refused(kind: str) -> None:
    inputs, fits = SCALES[kind]
    preprocessor = AdversarialDataPreprocessor()
    if fits:
        images = preprocessor(dict(inputs=inputs))['inputs']
        expected = torch.stack([one.float() / 255 for one in inputs])
        torch.testing.assert_close(images, expected)
        return
    with pytest.raises(ValueError, match='as torchvision/ToTensor scales'):
        preprocessor(dict(inputs=inputs))


def test_a_dim_batch_is_known_by_the_scale_of_an_earlier_one() -> None:
    """That of training says nothing of another pipeline."""
    preprocessor = AdversarialDataPreprocessor()
    preprocessor(dict(inputs=pixels().float()), True)
    preprocessor(dict(inputs=in_unit_range()), True)
    with pytest.raises(ValueError, match='as torchvision/ToTensor scales'):
        preprocessor(dict(inputs=in_unit_range()))


def labelled(field: str, value: Tensor) -> list[DataSample]:
    given = samples()
    given[2].set_field(value, field)
    given[2].set_field('cat.png', 'img_path', field_type='metainfo')
    return given


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
    ids=[
        *('two', 'float', 'none', 'multi-label', 'other classes'),
        *('negative', 'nan'),
    ],
)
def test_label_of_a_wrong_kind(
    field: str, value: Tensor, message: str
) -> None:
    preprocessor = AdversarialDataPreprocessor(num_classes=5)
    given = labelled(field, value)
    with pytest.raises(ValueError, match=rf'{field} of image cat.*{message}'):
        preprocessor(dict(inputs=pixels(), data_samples=given))


@pytest.mark.parametrize('dtype', [torch.float32, torch.int64], ids=str)
def test_scores_of_an_image_are_taken(dtype: torch.dtype) -> None:
    preprocessor = AdversarialDataPreprocessor(num_classes=5)
    given = labelled('gt_score', torch.eye(5)[3].to(dtype))
    preprocessor(dict(inputs=pixels(), data_samples=given[2:3]))


@pytest.mark.parametrize(
    'labels',
    [torch.zeros(6, 1).long(), torch.zeros(6)],
    ids=['column', 'float'],
)
def test_whole_batch_with_labels_of_a_wrong_kind(labels: Tensor) -> None:
    preprocessor = AdversarialDataPreprocessor(num_classes=5)
    data = dict(inputs=pixels(), data_samples=BatchLabels(labels))
    with pytest.raises(TypeError, match='target must be labels'):
        preprocessor(data, True)


def test_wrong_augment() -> None:
    with pytest.raises(ValueError, match='crop_padding=-4'):
        AdversarialDataPreprocessor(augment=dict(crop_padding=-4))


@pytest.mark.parametrize('training', [True, False], ids=['train', 'test'])
@pytest.mark.parametrize('mix', [None, 'mixup', 'cutmix'])
def test_labels_in_one_object_are_treated_as_samples(
    mix: str | None, training: bool
) -> None:
    labels = [0, 1, 2, 3, 4, 0]
    augments = mix and dict(augments=AUGMENTS[mix])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        preprocessor = AdversarialDataPreprocessor(
            **NORM, num_classes=5, batch_augments=augments
        )
    found = []
    for given in (samples(labels), BatchLabels(torch.tensor(labels))):
        np.random.seed(1)
        torch.manual_seed(1)
        data = dict(inputs=pixels(), data_samples=given)
        found.append(preprocessor(data, training))
    one, other = found
    assert torch.equal(one['inputs'], other['inputs'])
    batch = other['data_samples']
    assert batch.labels.tolist() == labels
    if mix is None:
        assert batch.scores is None
        return
    scores = torch.stack([one.gt_score for one in one['data_samples']])
    assert torch.equal(batch.scores, scores.float())
    assert given.scores is None  # of the caller


def test_mixed_labels_need_the_number_of_classes() -> None:
    preprocessor = AdversarialDataPreprocessor(to_onehot=True)
    labels = BatchLabels(torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match='set num_classes'):
        preprocessor(dict(inputs=pixels(), data_samples=labels), True)


@pytest.mark.parametrize('label', [5, -1])
def test_label_of_a_whole_batch_outside_the_classes(label: int) -> None:
    labels = BatchLabels(torch.tensor([0, 4, label, 0, 0, 0]))
    preprocessor = AdversarialDataPreprocessor(num_classes=5)
    with pytest.raises(
        ValueError, match=rf'label {label} of image 2 of the batch .*0 to 4'
    ):
        preprocessor(dict(inputs=pixels(), data_samples=labels), True)


def test_a_whole_batch_waits_for_nothing() -> None:
    """On a device without values: whatever looked at one would raise."""
    preprocessor = AdversarialDataPreprocessor(
        **NORM, num_classes=5, augment=dict(crop_padding=2, flip_prob=0.5)
    ).to('meta')
    labels = BatchLabels(torch.tensor([0, 1, 2, 3, 4, 0]))
    batch = preprocessor(dict(inputs=pixels(), data_samples=labels), True)
    assert batch['inputs'].device.type == 'meta'
    assert batch['inputs'].shape == (6, 3, 8, 10)
    assert batch['data_samples'].labels.device.type == 'meta'


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
    mixup = dict(augments=dict(type='Mixup', alpha=1.0))
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
