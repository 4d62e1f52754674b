"""What fits a recipe, and how a recipe is fitted to it."""

from typing import Any

import pytest
from mmengine.config import Config, ConfigDict
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS

from m2at_mm.cli import load_config
from m2at_mm.recipes import apply_recipe
from m2at_mm.recipes.apply import why_refused
from m2at_mm.recipes.fit import token_size

CIFAR10 = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
RESNET50 = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
VIT = 'mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py'


def adversarial(name: str, recipe: str = 'm2at', **overrides: Any) -> Any:
    return apply_recipe(load_config(name), recipe, **overrides).model


LARGE = [
    (CIFAR10, False),
    ('mmpretrain::resnet/resnet50_8xb16_cifar100.py', False),
    ('mmpretrain::lenet/lenet5_mnist.py', False),
    (RESNET50, True),
    ('mmpretrain::resnet/resnet50_8xb8_cub.py', True),
]


@pytest.mark.parametrize(('name', 'large'), LARGE)
def test_radius_follows_the_size_of_the_images(name: str, large: bool) -> None:
    model = adversarial(name)
    eps, step_size = ('4/255', '1/255') if large else ('8/255', '2/255')
    assert model.threat_model == dict(norm='linf', eps=eps)
    assert model.train_attack.step_size == step_size
    assert model.eval_attacks.pgd10.step_size == step_size


RADII = [
    (dict(type='CIFAR10'), '8/255'),
    (dict(type='CIFAR10', pipeline=[dict(type='PackInputs')]), '8/255'),
    (dict(type='CustomDataset'), '4/255'),
    (dict(type='CIFAR10', pipeline=[dict(scale=224)]), '4/255'),
    (dict(type='ImageNet', pipeline=[dict(scale=(64, 64))]), '8/255'),
    # The last size counts.
    (dict(pipeline=[dict(scale=256), dict(crop_size=32)]), '8/255'),
    (dict(pipeline=[dict(scale=(-1, 256)), dict(prob=0.5)]), '4/255'),
]


@pytest.mark.parametrize(('dataset', 'eps'), RADII, ids=str)
def test_radius_follows_the_pipeline(dataset: dict, eps: str) -> None:
    stock = load_config(RESNET50)
    inner = dict(type='A') | dataset
    outer = dict(type='RepeatDataset', times=2, dataset=inner)
    stock.train_dataloader.dataset = outer
    assert apply_recipe(stock, 'm2at').model.threat_model.eps == eps


def test_what_the_user_gives_goes_first() -> None:
    given = dict(eps='2/255'), dict(mask='rectangle')
    model = adversarial(VIT, threat_model=given[0], method=given[1])
    assert model.threat_model == dict(norm='linf', eps='2/255')
    assert model.method.mask == 'rectangle'
    assert model.method.type == 'm2at_mm.M2AT'
    # The steps stay those of the recipe, too.
    model = adversarial(RESNET50, threat_model=dict(eps='8/255'))
    assert model.train_attack.step_size == '2/255'
    assert adversarial(RESNET50, 'standard').threat_model.eps == '4/255'
    model = adversarial(RESNET50, 'fast-at')
    assert model.threat_model.eps == '4/255'
    assert model.train_attack.step == 1.25  # in radii


def test_masks_are_made_of_the_tokens_of_a_vision_transformer() -> None:
    method = adversarial(VIT).method
    assert (method.mask, method.patch_size) == ('patch', 16)
    assert 'mask' not in adversarial(RESNET50).method
    assert 'mask' not in adversarial(VIT, 'pgd-at').method
    backbone = load_config(VIT).model.backbone
    network = MODELS.build(dict(backbone, arch='deit-tiny', drop_path_rate=0))
    assert network.patch_embed.projection.stride == (16, 16)


VISION = dict(type='VisionTransformer')


TOKENS = [
    (dict(backbone=VISION), 16),
    (dict(backbone=dict(VISION, patch_size=14)), 14),
    (dict(backbone=dict(type='DeiT3', patch_size=32)), 32),
    (dict(backbone=dict(type='DeiT3', patch_size=(14, 14))), 14),
    (dict(backbone=dict(type='DeiT3', patch_size=(16, 8))), None),
    (dict(backbone=dict(type='LoRAModel', module=VISION)), 16),
    # By the default of its base.
    (dict(backbone=dict(type='DistilledVisionTransformer')), 16),
    (dict(backbone=dict(type='NoSuchNet')), None),
    # Tokens of four pixels, merged later.
    (dict(backbone=dict(type='SwinTransformer')), None),
    (dict(backbone=dict(type='ResNet')), None),
    (dict(model_name='vit_small_patch32_224'), 32),
    (dict(model_name='google/vit-base-patch16-224'), 16),
    (dict(model_name='swin_tiny_patch4_window7_224'), None),
    (dict(model_name='resnet18'), None),
]


@pytest.mark.parametrize(('classifier', 'size'), TOKENS)
def test_token_size(classifier: dict, size: int | None) -> None:
    assert token_size(ConfigDict(classifier)) == size


LOSSES = [
    dict(type='CrossEntropyLoss'),
    dict(type='LabelSmoothLoss', label_smooth_val=0.1, use_sigmoid=True),
    # It only asks which probabilities are not 0.
    dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='multi_label'),
]


@pytest.mark.parametrize('loss', LOSSES, ids=str)
def test_labels_stay_as_they_are(loss: dict) -> None:
    """So that any loss can train on them."""
    stock = load_config(RESNET50)
    stock.model.head.loss = loss
    for recipe in ('m2at', 'pgd-at'):
        model = MODELS.build(apply_recipe(stock, recipe).model)
        assert not model.method.changes_labels
    soft = apply_recipe(stock, 'm2at', method=dict(perturbed_label=0.5))
    assert soft.model.method.perturbed_label == 0.5
    if loss.get('mode') == 'multi_label':
        with pytest.raises(ValueError, match=r"^method='M2AT' give soft"):
            MODELS.build(soft.model)


NETWORK = dict(type='ResNet', depth=18)


def classifier(kind: Any = 'ImageClassifier', **settings: Any) -> dict:
    return dict(type=kind, backbone=NETWORK, **settings)


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


GIVEN = [
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


@pytest.mark.parametrize(('model', 'reason'), GIVEN)
def test_models(model: dict, reason: str | None) -> None:
    found = why_refused(Config(dict(model=model)))
    assert found is None if reason is None else reason in str(found)
