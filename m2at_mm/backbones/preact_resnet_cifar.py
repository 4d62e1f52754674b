"""Pre-activation ResNet for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

from m2at_mm.backbones.pre_activation import PreActivationNet, Settings
from m2at_mm.checks import check_choice
from m2at_mm.registry import MODELS

# Output channels of a block by its width, and blocks by stage.
_DEPTHS = {18: (1, (2, 2, 2, 2)), 34: (1, (3, 4, 6, 3)), 50: (4, (3, 4, 6, 3))}
_INIT: list[Settings] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


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
        frozen_stages (int): Number of stages that are not trained, besides
            the stem; 0 is the stem alone. Defaults to -1, nothing frozen.
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

    stages = ('layer1', 'layer2', 'layer3', 'layer4')
    last_norm = 'bn'
    shortcut = 'shortcut.0'

    def __init__(
        self,
        depth: int = 18,
        base_channels: int = 64,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: Settings | None = None,
        act_cfg: Settings | None = None,
        init_cfg: Settings | Sequence[Settings] | None = None,
        in_channels: int = 3,
    ) -> None:
        check_choice('depth', depth, _DEPTHS)
        super().__init__(
            frozen_stages, norm_eval, norm_cfg, act_cfg, init_cfg or _INIT
        )
        expansion, numbers = _DEPTHS[depth]
        self.build_layers(
            in_channels, base_channels, base_channels, numbers, expansion
        )
