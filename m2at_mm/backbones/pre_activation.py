"""Pre-activation networks: what both backbones have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.checks import check_choice

Settings = dict[str, Any]


def _conv(in_channels: int, out_channels: int, size: int, stride: int) -> Any:
    return nn.Conv2d(
        in_channels, out_channels, size, stride, size // 2, bias=False
    )


class _Block(nn.Module):
    """Norm, activation and convolution, two or three times; a shortcut."""

    bn1: nn.Module
    conv1: nn.Module

    def __init__(
        self,
        net: PreActivationNet,
        width: int,
        in_channels: int,
        out_channels: int,
        stride: int,
        drop_rate: float,
    ) -> None:
        super().__init__()
        convs = [(width, 3, stride), (width, 3, 1)]
        if out_channels != width:
            convs = [(width, 1, 1), convs[0], (out_channels, 1, 1)]
        self.depth = len(convs)
        channels = in_channels
        for number, conv in enumerate(convs, 1):
            self.add_module(f'bn{number}', net.norm(channels))
            self.add_module(f'conv{number}', _conv(channels, *conv))
            channels = conv[0]
        self.activate = build_activation_layer(net.act_cfg)
        self.drop = nn.Dropout(drop_rate)
        # Only a block that changes the width has a stride.
        self.widens = in_channels != out_channels
        if self.widens:
            self._shortcut, _, inner = net.shortcut.partition('.')
            projection = _conv(in_channels, out_channels, 1, stride)
            self.add_module(
                self._shortcut,
                nn.Sequential(projection) if inner else projection,
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.activate(self.bn1(x))
        identity = getattr(self, self._shortcut)(out) if self.widens else x
        out = self.conv1(out)
        for number in range(2, self.depth + 1):
            out = self.activate(getattr(self, f'bn{number}')(out))
            if number == self.depth:
                out = self.drop(out)
            out = getattr(self, f'conv{number}')(out)
        total: Tensor = out + identity
        return total


class PreActivationNet(BaseBackbone):
    """Stem, stages of blocks and a last normalisation.

    The layers have the names of the published networks, so that their
    checkpoints fit after renaming.
    """

    #: Names of the stages; behind a dot, the name of the blocks inside.
    stages: Sequence[str]
    last_norm: str
    #: Name of the convolution of a shortcut, in a block.
    shortcut: str

    def __init__(
        self,
        frozen_stages: int,
        norm_eval: bool,
        norm_cfg: Settings | None,
        act_cfg: Settings | None,
        init_cfg: Settings | Sequence[Settings],
    ) -> None:
        super().__init__(init_cfg)
        check_choice(
            'frozen_stages', frozen_stages, range(-1, len(self.stages) + 1)
        )
        self.norm_cfg = norm_cfg or dict(type='BN')
        self.act_cfg = act_cfg or dict(type='ReLU')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def norm(self, channels: int) -> Any:
        """A normalisation layer."""
        return build_norm_layer(self.norm_cfg, channels)[1]

    def build_layers(
        self,
        in_channels: int,
        stem: int,
        width: int,
        numbers: Sequence[int],
        expansion: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        """Build all layers; each stage but the first halves the size.

        Args:
            in_channels (int): Channels of the images.
            stem (int): Channels after the first convolution.
            width (int): Width of the first stage; it doubles in each.
            numbers (Sequence[int]): Number of blocks of each stage.
            expansion (int): Output channels of a block by its width; blocks
                of more than 1 are bottlenecks.
            drop_rate (float): Dropout before the last convolution of a block.
        """
        self.conv1 = _conv(in_channels, stem, 3, 1)
        channels = stem
        for stage, (name, number) in enumerate(zip(self.stages, numbers)):
            wide = width * 2**stage
            blocks = nn.Sequential()
            for position in range(number):
                stride = 2 if stage > 0 and position == 0 else 1
                out = expansion * wide
                blocks.append(
                    _Block(self, wide, channels, out, stride, drop_rate)
                )
                channels = out
            outer, _, inner = name.partition('.')
            if inner:
                layer, blocks = blocks, nn.Sequential()
                blocks.add_module(inner, layer)
            self.add_module(outer, blocks)
        self.add_module(self.last_norm, self.norm(channels))
        self.activate = build_activation_layer(self.act_cfg)
        self._freeze_stages()

    def _layers(self) -> list[nn.Module]:
        """Stem and stages."""
        names = ('conv1', *(name.split('.')[0] for name in self.stages))
        return [getattr(self, name) for name in names]

    def _freeze_stages(self) -> None:
        for layer in self._layers()[: self.frozen_stages + 1]:
            layer.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Any:
        """Set the mode; frozen stages and ``norm_eval`` stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One feature map, (N, C', H', W'), of images (N, C, H, W)."""
        for layer in self._layers():
            x = layer(x)
        return (self.activate(getattr(self, self.last_norm)(x)),)
