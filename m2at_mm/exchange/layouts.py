"""Key layouts of published checkpoints, in mmpretrain's names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpretrain.models.backbones.resnet import BasicBlock, ResNet
from torch import Tensor

from m2at_mm import checkpoint_files

StateDict = dict[str, Tensor]

# Where training scripts put the weights in what they save, and what wrappers
# put before each key.
_CONTAINERS = ('state_dict', 'model_state_dict', 'model', 'net')
_PREFIXES = ('module.', 'model.', 'net.', 'backbone.model.')
_NORMALISATION = {'mean': 'mean', 'mu': 'mean', 'std': 'std', 'sigma': 'std'}


@dataclass
class Imported:
    """Config and weights of an mmpretrain classifier.

    ``mean`` and ``std`` are those of the normalisation that was inside, per
    channel on the 0-255 scale, None if there was none.
    """

    classifier: dict[str, Any]
    state_dict: StateDict
    mean: list[float] | None
    std: list[float] | None
    num_channels: int
    num_classes: int


def import_checkpoint(path: Path) -> Imported:
    """Read a checkpoint in a known layout.

    Known are the ResNets, pre-activation ResNets and wide ResNets for CIFAR of
    the public robustness repositories (``conv1, bn1, layer1.0.conv1, ...,
    linear`` and ``block1.layer.0.conv1, ..., fc``) and torchvision's ResNets,
    with or without a wrapper's prefix, in or outside of a dict of other
    things, and with or without a normalisation layer. Nothing in the file is
    run, see :func:`m2at_mm.checkpoint_files.read`.

    Raises:
        ValueError: The layout is unknown, or the normalisation is not on the
            scale of images in [0, 1].
    """
    content = checkpoint_files.read(path)
    state_dict = _strip_prefixes(_find_state_dict(content, path))
    channels = _count_channels(state_dict)
    mean, std, state_dict = _split_normalisation(state_dict, channels)
    # `linear` and `fc` are the head's `fc`, all else is the backbone's.
    # TRADES' wide ResNet has a stage that its forward pass never uses.
    weights = {
        re.sub(r'^backbone\.(linear|fc)\.', 'head.fc.', f'backbone.{k}'): v
        for k, v in _strip_prefixes(state_dict).items()
        if not k.startswith('sub_block1.')
    }
    backbone = _backbone_config(weights, path)
    if channels != 3:
        backbone['in_channels'] = channels
    num_classes, in_channels = weights['head.fc.weight'].shape
    head: dict[str, Any] = dict(type='LinearClsHead', num_classes=num_classes)
    head['in_channels'] = in_channels
    head['loss'] = dict(type='CrossEntropyLoss', loss_weight=1.0)
    classifier = dict(type='ImageClassifier', backbone=backbone, head=head)
    classifier['neck'] = dict(type='GlobalAveragePooling')
    return Imported(classifier, weights, mean, std, channels, num_classes)


def _find_state_dict(content: Any, path: Path) -> StateDict:
    for name in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} holds a {type(content).__name__}: save the state dict of '
            'the model, not the model'
        )
    found = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not found:
        raise ValueError(
            f'{path} has no tensors, only {sorted(content)[:6]}: give the '
            "file with the model's state dict"
        )
    return found


def _strip_prefixes(state_dict: StateDict) -> StateDict:
    """Without the prefixes that wrappers put before every key."""
    for prefix in _PREFIXES * 2:
        if all(key.startswith(prefix) for key in state_dict):
            state_dict = {k[len(prefix) :]: v for k, v in state_dict.items()}
    return state_dict


def _split_normalisation(
    state_dict: StateDict, channels: int
) -> tuple[list[float] | None, list[float] | None, StateDict]:
    """Mean, std, and the weights of the network behind the normalisation."""
    found: dict[str, Tensor] = {}
    rest = dict(state_dict)
    for key, value in state_dict.items():
        kind = _NORMALISATION.get(key.rsplit('.', 1)[-1])
        if kind and value.numel() in (1, channels):
            found[kind] = rest.pop(key).flatten().double().expand(channels)
    # nn.Sequential(normalisation, network)
    if rest and all(key.startswith('1.') for key in rest):
        rest = {key[2:]: value for key, value in rest.items()}
    if not found:
        return None, None, rest
    if len(found) == 1:
        raise ValueError(
            f'the checkpoint has the {next(iter(found))} of a normalisation '
            'layer alone: mean and std are both needed'
        )
    mean, std = (found[kind] for kind in ('mean', 'std'))
    if max(mean.max(), std.max()) > 1:
        raise ValueError(
            f'the normalisation has mean {mean.tolist()} and std '
            f'{std.tolist()}, which is not on the scale of images in [0, 1]'
        )
    return (255 * mean).tolist(), (255 * std).tolist(), rest


def _count_channels(state_dict: StateDict) -> int:
    """Channels of the images, those that the stem's convolution takes."""
    stems = [key for key in state_dict if key.endswith('conv1.weight')]
    stem = state_dict[min(stems, key=len)] if stems else None
    return int(stem.shape[1]) if stem is not None and stem.ndim == 4 else 3


def _backbone_config(weights: StateDict, path: Path) -> dict[str, Any]:
    """The backbone's config; its weights get mmpretrain's last names."""
    keys = {key.removeprefix('backbone.') for key in weights}
    wide = 'block1.layer.0.conv1.weight' in keys
    if not (wide or {'conv1.weight', 'layer1.0.conv1.weight'} <= keys):
        raise ValueError(
            f'{path}: the layout of the keys {sorted(keys)[:4]}, ... is not '
            'known. Known are ResNets and pre-activation ResNets with conv1, '
            'layer1.0.conv1, ... and linear or fc, and wide ResNets with '
            'block1.layer.0.conv1, ...; a checkpoint of mmpretrain needs no '
            'conversion'
        )
    if 'head.fc.weight' not in keys:
        raise ValueError(f'{path} has no layer linear or fc')
    if wide:
        blocks = _count_blocks(keys, 'block1.layer.')
        width = len(weights['backbone.block1.layer.0.conv1.weight'])
        settings = dict(depth=6 * blocks + 4, widen_factor=width // 16)
        return dict(type='m2at_mm.WideResNet_CIFAR', **settings)
    width = len(weights['backbone.layer1.0.conv1.weight'])
    config = dict(depth=_resnet_depth(keys, path), base_channels=width)
    if 'bn1.weight' not in keys:
        return dict(type='m2at_mm.PreActResNet_CIFAR', **config)
    for key in [key for key in weights if '.shortcut.' in key]:
        new = key.replace('.shortcut.', '.downsample.')
        weights[new] = weights.pop(key)
    stem = weights['backbone.conv1.weight']
    kind = 'ResNet_CIFAR' if stem.shape[-1] == 3 else 'ResNet'
    return dict(type=kind, stem_channels=len(stem), **config)


def _resnet_depth(keys: set[str], path: Path) -> int:
    blocks = tuple(_count_blocks(keys, f'layer{n}.') for n in (1, 2, 3, 4))
    basic = 'layer1.0.conv3.weight' not in keys
    known = ResNet.arch_settings.items()
    kinds = [(d, k is BasicBlock, stages) for d, (k, stages) in known]
    found = [depth for depth, *kind in kinds if kind == [basic, blocks]]
    if not found:
        raise ValueError(
            f'{path}: a ResNet with {blocks} blocks is not one of depth '
            f'{sorted(ResNet.arch_settings)}'
        )
    if not keys & {'bn1.weight', 'bn.weight'}:
        raise ValueError(
            f'{path}: a ResNet with neither bn1 after the stem nor bn before '
            'the pooling is not known here'
        )
    return int(found[0])


def _count_blocks(keys: set[str], stage: str) -> int:
    rest = (key.removeprefix(stage) for key in keys if key.startswith(stage))
    return len({one.split('.')[0] for one in rest})
