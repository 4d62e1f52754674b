"""Wide ResNet for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from m2at_mm.backbones.stages import PreActivationNet, activation, conv, norm
from m2at_mm.registry import MODELS

_INIT: Sequence[dict[str, Any]] = [
    dict(type='Kaiming', layer=['Conv2d'], mode='fan_out'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


class _Block(nn.Module):
    def __init__(
        self,
        cfg: dict[str, Any],
        drop_rate: float,
        out_channels: int,
        in_channels: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.bn1 = norm(cfg['norm_cfg'], in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride)
        self.bn2 = norm(cfg['norm_cfg'], out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, 1)
        self.activate = activation(cfg['act_cfg'])
        self.drop = nn.Dropout(drop_rate)
        self.convShortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.convShortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activate(self.bn1(x))
        # The shortcut starts after the activation only where it changes width.
        identity = x if self.convShortcut is None else self.convShortcut(out)
        out = self.activate(self.bn2(self.conv1(out)))
        total: Tensor = identity + self.conv2(self.drop(out))
        return total


@MODELS.register_module()
class WideResNet_CIFAR(PreActivationNet):  # noqa: N801, as ResNet_CIFAR
    """Wide ResNet (arXiv 1605.07146) for images of 32x32.

    It gives one feature map, a quarter of the image's size, with 64 times
    ``widen_factor`` channels.

    Args:
        depth (int): 6 * n + 4, with n blocks in each of the three stages:
            28 or 34 in the literature on robustness. Defaults to 34.
        widen_factor (int): Width of the first stage in units of 16 channels.
            Defaults to 10.
        drop_rate (float): Dropout between the convolutions of a block, in
            [0, 1). Defaults to 0.0.
        frozen_stages (int): Stages that are not trained, with the stem; 0 is
            the stem alone. Defaults to -1, none.
        norm_eval (bool): Keep batch norm in eval mode. Defaults to False.
        norm_cfg (dict, optional): Normalisation layers. Defaults to None,
            ``dict(type='BN')``.
        act_cfg (dict, optional): Activation, e.g. ``dict(type='SiLU')``.
            Defaults to None, ``dict(type='ReLU')``.
        init_cfg (dict | list[dict], optional): Initial weights. Defaults to
            None, Kaiming's by fan-out.
        in_channels (int): Channels of the images. Defaults to 3.

    Raises:
        ValueError: An argument is out of its range.
    """

    stages: Sequence[str] = ('block1', 'block2', 'block3')
    last_norm = 'bn1'

    def __init__(
        self,
        depth: int = 34,
        widen_factor: int = 10,
        drop_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        in_channels: int = 3,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f'depth={depth!r} must be 6 * n + 4, like 28 or 34'
            )
        if widen_factor < 1:
            raise ValueError(f'widen_factor={widen_factor!r} must be >= 1')
        if not 0 <= drop_rate < 1:
            raise ValueError(
                f'drop_rate={drop_rate!r} must be at least 0 and below 1'
            )
        super().__init__(
            norm_cfg or dict(type='BN'),
            act_cfg or dict(type='ReLU'),
            frozen_stages,
            norm_eval,
            init_cfg or _INIT,
        )
        self.conv1 = conv(in_channels, 16, 3, 1)
        channels = 16
        layers = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        for stage, name in enumerate(self.stages):
            width = 16 * widen_factor * 2**stage
            blocks = self.make_stage(
                stage,
                partial(_Block, layers, drop_rate, width),
                (depth - 4) // 6,
                (channels, width),
            )
            # As the published networks name it.
            self.add_module(name, nn.Sequential())
            getattr(self, name).add_module('layer', blocks)
            channels = width
        self.bn1 = norm(self.norm_cfg, channels)
        self.activate = activation(self.act_cfg)
        self.freeze_stages()
