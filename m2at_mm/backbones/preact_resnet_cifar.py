"""Pre-activation ResNet for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from m2at_mm.backbones.stages import PreActivationNet, activation, conv, norm
from m2at_mm.registry import MODELS

_INIT: Sequence[dict[str, Any]] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(
        self, cfg: dict[str, Any], width: int, in_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.bn1 = norm(cfg['norm_cfg'], in_channels)
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn2 = norm(cfg['norm_cfg'], width)
        self.conv2 = conv(width, width, 3, 1)
        self.activate = activation(cfg['act_cfg'])
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != width:
            self.shortcut = nn.Sequential(conv(in_channels, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.activate(self.bn1(x))
        identity = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(self.activate(self.bn2(out)))
        total: Tensor = out + identity
        return total


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(
        self, cfg: dict[str, Any], width: int, in_channels: int, stride: int
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.bn1 = norm(cfg['norm_cfg'], in_channels)
        self.conv1 = conv(in_channels, width, 1, 1)
        self.bn2 = norm(cfg['norm_cfg'], width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = norm(cfg['norm_cfg'], width)
        self.conv3 = conv(width, out_channels, 1, 1)
        self.activate = activation(cfg['act_cfg'])
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                conv(in_channels, out_channels, 1, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.activate(self.bn1(x))
        identity = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(self.activate(self.bn2(out)))
        out = self.conv3(self.activate(self.bn3(out)))
        total: Tensor = out + identity
        return total


_DEPTHS: dict[int, tuple[Any, tuple[int, ...]]] = {
    18: (_BasicBlock, (2, 2, 2, 2)),
    34: (_BasicBlock, (3, 4, 6, 3)),
    50: (_Bottleneck, (3, 4, 6, 3)),
}


@MODELS.register_module()
class PreActResNet_CIFAR(PreActivationNet):  # noqa: N801, as ResNet_CIFAR
    """Pre-activation ResNet (arXiv 1603.05027) for images of 32x32.

    The network of the robust-overfitting work (arXiv 2002.11569): a 3x3 stem
    without pooling, shortcuts from the activated input, and a last
    normalisation before the pooling. It gives one feature map, an eighth of
    the image's size, with 8 times ``base_channels``, 32 times for depth 50.

    Args:
        depth (int): 18, 34 or 50. Defaults to 18.
        base_channels (int): Width of the first stage. Defaults to 64.
        frozen_stages (int): Stages that are not trained, with the stem; 0 is
            the stem alone. Defaults to -1, none.
        norm_eval (bool): Keep batch norm in eval mode. Defaults to False.
        norm_cfg (dict, optional): Normalisation layers. Defaults to None,
            ``dict(type='BN')``.
        act_cfg (dict, optional): Activation, e.g. ``dict(type='SiLU')``.
            Defaults to None, ``dict(type='ReLU')``.
        init_cfg (dict | list[dict], optional): Initial weights. Defaults to
            None, Kaiming's.
        in_channels (int): Channels of the images. Defaults to 3.

    Raises:
        ValueError: ``depth`` or ``frozen_stages`` is out of its range.
    """

    stages: Sequence[str] = ('layer1', 'layer2', 'layer3', 'layer4')
    last_norm = 'bn'

    def __init__(
        self,
        depth: int = 18,
        base_channels: int = 64,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        in_channels: int = 3,
    ) -> None:
        if depth not in _DEPTHS:
            raise ValueError(
                f'depth={depth!r} is unknown: choose one of {list(_DEPTHS)}'
            )
        super().__init__(
            norm_cfg or dict(type='BN'),
            act_cfg or dict(type='ReLU'),
            frozen_stages,
            norm_eval,
            init_cfg or _INIT,
        )
        block, numbers = _DEPTHS[depth]
        self.conv1 = conv(in_channels, base_channels, 3, 1)
        channels = base_channels
        layers = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        for stage, (name, number) in enumerate(zip(self.stages, numbers)):
            width = base_channels * 2**stage
            out_channels = block.expansion * width
            blocks = self.make_stage(
                stage,
                partial(block, layers, width),
                number,
                (channels, out_channels),
            )
            self.add_module(name, blocks)
            channels = out_channels
        self.bn = norm(self.norm_cfg, channels)
        self.activate = activation(self.act_cfg)
        self.freeze_stages()
