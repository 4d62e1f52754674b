"""Pre-activation networks: ResNet and Wide ResNet for images of 32x32."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.checks import check_choice, check_count, check_number
from m2at_mm.registry import MODELS

__all__ = ['PreActResNet_CIFAR', 'WideResNet_CIFAR']


_INIT = [
    dict(type='Kaiming', layer=['Conv2d'], mode='fan_out'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]
# By depth: output channels of a block by its width, and blocks by stage.
_DEPTHS = {18: (1, (2, 2, 2, 2)), 34: (1, (3, 4, 6, 3)), 50: (4, (3, 4, 6, 3))}


def _conv(given: int, out: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(given, out, size, stride, size // 2, bias=False)


def _add(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module; that of a dotted name stands in one of its own."""
    outer, _, inner = name.partition('.')
    parent.add_module(outer, nn.Sequential() if inner else module)
    if inner:
        getattr(parent, outer).add_module(inner, module)


class _Block(nn.Module):
    """Norm, activation and convolution, two or three times; a shortcut."""

    def __init__(
        self, net: Any, width: int, given: int, out: int, stride: int
    ) -> None:
        super().__init__()
        convs = [(width, 3, stride), (width, 3, 1)]
        if out != width:
            convs = [(width, 1, 1), convs[0], (out, 1, 1)]
        self.depth = len(convs)
        channels = given
        for number, conv in enumerate(convs, 1):
            self.add_module(f'bn{number}', net.norm(channels))
            self.add_module(f'conv{number}', _conv(channels, *conv))
            channels = conv[0]
        self.activate = build_activation_layer(net.act_cfg)
        self.drop = nn.Dropout(net.drop_rate)
        # Only a block that changes the width has a stride.
        self.projection = ''
        if given != out:
            self.projection = net.shortcut.partition('.')[0]
            _add(self, net.shortcut, _conv(given, out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = identity = x
        for number in range(1, self.depth + 1):
            out = self.activate(getattr(self, f'bn{number}')(out))
            if number == 1 and self.projection:
                identity = getattr(self, self.projection)(out)
            if number == self.depth:
                out = self.drop(out)
            out = getattr(self, f'conv{number}')(out)
        return out + identity


class PreActivationNet(BaseBackbone):
    """Stem, stages of blocks and a last normalisation.

    The layers have the names of the published networks. Each stage but the
    first has twice the ``width`` and half the size of the one before; an
    ``expansion`` of the width above 1 makes its blocks bottlenecks.

    Args:
        frozen_stages (int): Number of stages that are not trained, besides
            the stem; 0 is the stem alone, -1 nothing.
        norm_eval (bool): Keep batch norm in eval mode.
        norm_cfg (dict, optional): Normalisation. Defaults to batch norm.
        act_cfg (dict, optional): Activation. Defaults to ReLU.
        init_cfg (dict | list[dict], optional): Defaults to Kaiming's, fan-out.
        in_channels (int): Channels of the images.
    """

    # Names of layers; behind a dot, that of what is inside.
    stages: Sequence[str]
    last_norm: str
    shortcut: str

    def __init__(
        self,
        stem: int,
        width: int,
        numbers: Sequence[int],
        expansion: int = 1,
        drop_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__(init_cfg or _INIT)
        known = range(-1, len(self.stages) + 1)
        check_choice('frozen_stages', frozen_stages, known)
        self.norm_cfg = norm_cfg or dict(type='BN')
        self.act_cfg = act_cfg or dict(type='ReLU')
        self.drop_rate = drop_rate
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv1 = _conv(in_channels, stem, 3, 1)
        channels = stem
        for stage, (name, number) in enumerate(zip(self.stages, numbers)):
            wide, blocks = width * 2**stage, nn.Sequential()
            out = expansion * wide
            for position in range(number):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(_Block(self, wide, channels, out, stride))
                channels = out
            _add(self, name, blocks)
        self.add_module(self.last_norm, self.norm(channels))
        self.activate = build_activation_layer(self.act_cfg)
        self._freeze_stages()

    def norm(self, channels: int) -> Any:
        """A normalisation layer."""
        return build_norm_layer(self.norm_cfg, channels)[1]

    def _layers(self) -> list[nn.Module]:
        names = ('conv1', *self.stages)
        return [getattr(self, name.partition('.')[0]) for name in names]

    def _freeze_stages(self) -> None:
        for layer in self._layers()[: self.frozen_stages + 1]:
            layer.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Any:
        """Set the mode; frozen stages and ``norm_eval`` stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        for module in self.modules() if mode and self.norm_eval else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One feature map, (N, C', H', W'), of images (N, C, H, W)."""
        for layer in self._layers():
            x = layer(x)
        return (self.activate(getattr(self, self.last_norm)(x)),)


@MODELS.register_module()
class PreActResNet_CIFAR(PreActivationNet):  # noqa: N801, as ResNet_CIFAR
    """Pre-activation ResNet (arXiv 1603.05027) for images of 32x32.

    The network of the robust-overfitting work (arXiv 2002.11569). It gives one
    feature map, an eighth of the image's size, with 8 times ``base_channels``,
    32 times for depth 50.

    Args:
        depth (int): 18, 34 or 50.
        base_channels (int): Width of the first stage.
        **kwargs: From ``frozen_stages`` on, see :class:`PreActivationNet`.
    """

    stages = ('layer1', 'layer2', 'layer3', 'layer4')
    last_norm = 'bn'
    shortcut = 'shortcut.0'

    def __init__(
        self, depth: int = 18, base_channels: int = 64, **kwargs: Any
    ) -> None:
        check_choice('depth', depth, _DEPTHS)
        expansion, numbers = _DEPTHS[depth]
        super().__init__(
            base_channels, base_channels, numbers, expansion, **kwargs
        )


@MODELS.register_module()
class WideResNet_CIFAR(PreActivationNet):  # noqa: N801, as ResNet_CIFAR
    """Wide ResNet (arXiv 1605.07146) for images of 32x32.

    It gives one feature map, a quarter of the image's size, with 64 times
    ``widen_factor`` channels.

    Args:
        depth (int): 6 * n + 4, with n blocks in each of the three stages.
        widen_factor (int): Width of the first stage in units of 16 channels.
        drop_rate (float): Dropout between a block's convolutions, in [0, 1).
        **kwargs: From ``frozen_stages`` on, see :class:`PreActivationNet`.
    """

    stages = ('block1.layer', 'block2.layer', 'block3.layer')
    last_norm = 'bn1'
    shortcut = 'convShortcut'

    def __init__(
        self,
        depth: int = 34,
        widen_factor: int = 10,
        drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            text = f'depth={depth!r} must be 6 * n + 4, like 28 or 34'
            raise ValueError(text)
        check_count('widen_factor', widen_factor)
        check_number('drop_rate', drop_rate, 0, below=1)
        numbers = [(depth - 4) // 6] * 3
        width = 16 * widen_factor
        super().__init__(16, width, numbers, drop_rate=drop_rate, **kwargs)
