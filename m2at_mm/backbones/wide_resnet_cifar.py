"""Wide ResNet for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

from m2at_mm.backbones.pre_activation import PreActivationNet, Settings
from m2at_mm.checks import check_count, check_number
from m2at_mm.registry import MODELS

_INIT: list[Settings] = [
    dict(type='Kaiming', layer=['Conv2d'], mode='fan_out'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


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
        frozen_stages (int): Number of stages that are not trained, besides
            the stem; 0 is the stem alone. Defaults to -1, nothing frozen.
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

    stages = ('block1.layer', 'block2.layer', 'block3.layer')
    last_norm = 'bn1'
    shortcut = 'convShortcut'

    def __init__(
        self,
        depth: int = 34,
        widen_factor: int = 10,
        drop_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: Settings | None = None,
        act_cfg: Settings | None = None,
        init_cfg: Settings | Sequence[Settings] | None = None,
        in_channels: int = 3,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f'depth={depth!r} must be 6 * n + 4, like 28 or 34'
            )
        check_count('widen_factor', widen_factor)
        check_number('drop_rate', drop_rate, 0, below=1)
        super().__init__(
            frozen_stages, norm_eval, norm_cfg, act_cfg, init_cfg or _INIT
        )
        self.build_layers(
            in_channels,
            16,
            16 * widen_factor,
            [(depth - 4) // 6] * 3,
            drop_rate=drop_rate,
        )
