from typing import Any

import pytest
from mmengine.config import Config
from mmpretrain.models import ImageClassifier

from m2at_mm.cli import load_config
from m2at_mm.recipes import apply_recipe
from m2at_mm.recipes.support import why_refused

RESNET = dict(type='ResNet', depth=18)


def classifier(kind: Any = 'ImageClassifier', **settings: Any) -> dict:
    return dict(type=kind, backbone=RESNET, **settings)


class OwnHead(ImageClassifier):
    """A user's classifier, which brings its head along."""


UNFIT = [
    ('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', 'self-superv'),
    ('arcface/resnet50-arcface_8xb32_inshop.py', 'retrieves images'),
    ('blip/blip-base_8xb16_refcoco.py', 'not a classifier'),
    ('clip/clip_vit-base-p16_zeroshot-cls_cifar100.py', 'not a classif'),
    ('vgg/vgg16_8xb16_voc.py', 'several labels'),
    ('csra/resnet101-csra_1xb16_voc07-448px.py', 'several labels'),
    ('dinov2/vit-base-p14_dinov2-pre_headless.py', 'no head'),
    ('mae/benchmarks/vit-large-p16_8xb128-ds-coslr-50e_in1k.py', 'DeepSp'),
]


@pytest.mark.parametrize(('name', 'reason'), UNFIT)
def test_configs_that_cannot_work(name: str, reason: str) -> None:
    cfg = load_config(f'mmpretrain::{name}')
    with pytest.raises(ValueError, match=f'm2at.*cannot be applied.*{reason}'):
        apply_recipe(cfg, 'm2at')
    with pytest.raises(ValueError, match="'m3at' is unknown"):
        apply_recipe(cfg, 'm3at')


MODELS = [
    (classifier(head=dict(type='MultiTaskHead')), 'several tasks'),
    (dict(type='m2at_mm.AdversarialClassifier'), 'already'),
    (dict(type='NoSuchClassifier'), 'custom_imports'),
    (dict(type='BlipCaption'), 'not a classifier'),
    ({}, 'has no model'),
    # Classifiers of single-label images are accepted.
    (dict(type='TimmClassifier', model_name='resnet18'), None),
    (dict(type='HuggingFaceClassifier', model_name='a/resnet-50'), None),
    (dict(type='mmpretrain.TimmClassifier', model_name='resnet18'), None),
    (classifier(head=dict(type='ArcFaceClsHead', num_classes=3)), None),
    # Only the build can judge these.
    (classifier(OwnHead), None),
    (classifier(head=dict(num_classes=2)), None),
]


@pytest.mark.parametrize(('model', 'reason'), MODELS)
def test_models(model: dict, reason: str | None) -> None:
    found = why_refused(Config(dict(model=model)))
    assert found is None if reason is None else reason in str(found)
