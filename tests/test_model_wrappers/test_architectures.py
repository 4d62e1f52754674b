"""The wrapper changes nothing of well-known stock classifiers."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_runner import build_digits_runner
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import TimmClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from tiny import (
    MEAN,
    STD,
    classifier_cfg,
    needs_torch_that_compiles,
    raw_batch,
)
from torch import nn

from config_coverage.shrink import fit_network, forget_checkpoints
from m2at_mm.cli import load_config, model_config
from m2at_mm.model_wrappers.transparent_keys import make_transparent
from m2at_mm.recipes import apply_recipe
from m2at_mm.registry import MODELS

STOCK = {
    'ResNet-50': 'resnet/resnet50_8xb32_in1k.py',
    'ViT-B/16': 'vision_transformer/vit-base-p16_32xb128-mae_in1k.py',
    'Swin-T': 'swin_transformer/swin-tiny_16xb64_in1k.py',
    'ConvNeXt-T': 'convnext/convnext-tiny_32xb128_in1k.py',
    'DeiT distilled': 'deit/deit-tiny-distilled_4xb256_in1k.py',
    'MobileNetV3': 'mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py',
    'EfficientNet': 'efficientnet/efficientnet-b0_8xb32_in1k.py',
    # Rates that fall with the depth of a layer.
    'layer decay': 'mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py',
}
SIZE = 64


FOREIGN = ('TimmClassifier', 'HuggingFaceClassifier')


def foreign(kind: str, folder: Path) -> Config:
    """The ResNet-50 config with a classifier of another library."""
    model = dict(type=kind, model_name='resnet10t', num_classes=1000)
    if kind == 'HuggingFaceClassifier':
        from transformers import ViTConfig

        layers = dict(num_hidden_layers=2, num_attention_heads=2)
        width = dict(layers, hidden_size=32, intermediate_size=64)
        network = ViTConfig(image_size=SIZE, num_labels=1000, **width)
        network.save_pretrained(folder)
        model = dict(type=kind, model_name=str(folder))
    cfg = load_config(f'mmpretrain::{STOCK["ResNet-50"]}')
    loss = dict(type='CrossEntropyLoss', loss_weight=1.0)
    cfg.model = dict(model, pretrained=False, loss=loss)
    return cfg


@pytest.fixture(scope='module', params=[*STOCK, *FOREIGN])
def stock(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A classification config at a small size, without pretrained weights."""
    if request.param in FOREIGN:
        return foreign(request.param, tmp_path_factory.mktemp('foreign'))
    cfg = load_config(f'mmpretrain::{STOCK[request.param]}')
    fit_network(cfg.model, SIZE)
    forget_checkpoints(cfg)
    return cfg


def batch_of(classes: int, repeat: int, num: int = 4) -> dict[str, Any]:
    batch = raw_batch(num, classes)
    return dict(batch, inputs=batch['inputs'].repeat(1, 1, repeat, repeat))


def loss_of(model: Any) -> float:
    """On a batch of small images, with the same random draws each time."""
    torch.manual_seed(1)
    np.random.seed(1)
    data = model.data_preprocessor(batch_of(1000, 2), training=True)
    with torch.no_grad():
        return float(model(**data, mode='loss')['loss'])


def rates_and_decays(model: Any, settings: Any) -> dict[str, Any]:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(model, copy.deepcopy(settings))
    names = {id(one): name for name, one in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for name in (names[id(one)] for one in group['params']):
            rates = group['lr'], group['weight_decay']
            found[name.removeprefix('classifier.')] = rates
    return found


def test_same_rates_loss_and_checkpoints_both_ways(stock: Config) -> None:
    """As the standard recipe, in train mode."""
    ours_cfg = apply_recipe(stock, 'standard')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plain = MMPRETRAIN_MODELS.build(model_config(copy.deepcopy(stock)))
        ours = MODELS.build(model_config(ours_cfg)).train()
    torch.manual_seed(0)
    plain.init_weights()
    plain.train()
    found = rates_and_decays(ours, stock.optim_wrapper)
    assert found == rates_and_decays(plain, stock.optim_wrapper)
    weights = copy.deepcopy(plain.state_dict())
    ours.load_state_dict(copy.deepcopy(weights), strict=True)
    assert loss_of(ours) == pytest.approx(loss_of(plain), rel=1e-5)
    back = ours.state_dict()
    assert back.keys() == weights.keys()
    plain.load_state_dict(back, strict=True)


def trained(stock: Config, classes: int, batch: dict) -> Any:
    """M2AT's model with the gradients of a batch, and its log."""
    cfg = apply_recipe(stock, 'm2at')
    cfg.model.train_attack.steps = 1
    cfg.model.classifier.pop('train_cfg', None)
    cfg.model.data_preprocessor = dict(mean=MEAN, std=STD, num_classes=classes)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model).train()
    model.init_weights()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    return model, log


def test_attacked_and_trained(stock: Config) -> None:
    model, log = trained(stock, 1000, batch_of(1000, 2))
    assert 0 < log['kept_share'] < 1
    for parameter in model.parameters():
        assert parameter.grad is not None or not parameter.requires_grad


def test_vgg_flattens_its_features() -> None:
    cfg = load_config('mmpretrain::vgg/vgg11_8xb32_in1k.py')
    cfg.model.backbone.num_classes = 10
    trained(cfg, 10, batch_of(10, 7, num=1))  # 224 pixels


def losses(work_dir: Path, width: int, **settings: Any) -> list[float]:
    """Of three epochs of an iteration each, with a validation."""
    torch._dynamo.reset()
    network = classifier_cfg(base_channels=width, stem_channels=width)
    settings |= dict(randomness=dict(seed=0), network=lambda _: network)
    runner = build_digits_runner(work_dir, 16, epochs=3, **settings)
    runner.train()
    hub = runner.message_hub
    assert len(hub.get_scalar('val/robust/pgd10').data[0]) == 3
    return hub.get_scalar('train/loss').data[0].tolist()


needs_compiler = pytest.mark.skipif(
    shutil.which('g++') is None, reason='no C++ compiler'
)
# The same draws as eager.
INDUCTOR = dict(backend='inductor', options=dict(fallback_random=True))


COMPILERS = [
    (4, dict(backend='aot_eager')),
    # PyTorch 2.14 crashes on the CPU where layers are narrower.
    pytest.param(16, INDUCTOR, marks=[pytest.mark.slow, needs_compiler]),
]


@needs_torch_that_compiles
@pytest.mark.parametrize(('width', 'settings'), COMPILERS)
def test_compiled_is_eager(width: int, settings: dict, tmp_path: Path) -> None:
    eager = losses(tmp_path / 'eager', width)
    compiled = losses(tmp_path / 'compiled', width, compile=settings)
    assert len(eager) == 3
    assert compiled == pytest.approx(eager, rel=1e-4)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        make_transparent(self, 'inner')


class TimmLike(nn.Module):
    """Leaves out its own child's name with mmpretrain's hooks for timm."""

    def __init__(self) -> None:
        super().__init__()
        self.model, cls = nn.Linear(2, 3), TimmClassifier
        self._register_state_dict_hook(cls._remove_state_dict_prefix)
        self._register_load_state_dict_pre_hook(cls._add_state_dict_prefix)


class Versioned(nn.Linear):
    """Would convert checkpoints by their version, as Swin does."""

    _version = 3
    seen = None

    def _load_from_state_dict(self, *args: Any) -> None:
        self.seen = args[2].get('version')
        super()._load_from_state_dict(*args)


def plain() -> nn.Module:
    return nn.Sequential(Versioned(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize('build', [plain, TimmLike])
def test_keys_are_the_childs_both_ways(build: Callable[[], nn.Module]) -> None:
    wrapper, child = Wrapper(build()), build()
    ours, theirs = wrapper.state_dict(), child.state_dict()
    assert list(ours) == list(theirs)
    assert build is TimmLike or dict(ours._metadata) == dict(theirs._metadata)
    for load in (load_state_dict, nn.Module.load_state_dict):
        other = Wrapper(build())
        load(other, child.state_dict(), strict=True)
        child.load_state_dict(wrapper.state_dict(), strict=True)
        load(wrapper, other.state_dict(), strict=True)
        assert build is TimmLike or other.inner[0].seen == 3
        assert all(map(torch.equal, wrapper.parameters(), other.parameters()))


def test_works_below_another_module_and_in_a_copy() -> None:
    def nested() -> nn.Module:
        return nn.ModuleDict(dict(a=Wrapper(plain()), b=nn.Linear(1, 1)))

    outer, other = copy.deepcopy(nested()), nested()
    keys = list(outer.state_dict())
    assert 'a.0.weight' in keys and not any('inner' in key for key in keys)
    other.load_state_dict(outer.state_dict(), strict=True)
    assert all(map(torch.equal, other.parameters(), outer.parameters()))


def test_wrong_keys_are_still_reported() -> None:
    given = {'0.weight': torch.zeros(3, 2), 'x': torch.zeros(1)}
    result = Wrapper(plain()).load_state_dict(given, strict=False)
    assert result.unexpected_keys == ['inner.x']
    assert 'inner.0.bias' in result.missing_keys
