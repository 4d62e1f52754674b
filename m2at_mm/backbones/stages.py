"""What the backbones share: layers by config, and stages of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def conv(in_channels: int, out_channels: int, size: int, stride: int) -> Any:
    """A convolution that keeps the size but for its stride, without bias."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        size,
        stride=stride,
        padding=size // 2,
        bias=False,
    )


def norm(norm_cfg: dict[str, Any], channels: int) -> Any:
    """The normalisation layer of a config."""
    return build_norm_layer(norm_cfg, channels)[1]


def activation(act_cfg: dict[str, Any]) -> Any:
    """The activation layer of a config."""
    return build_activation_layer(act_cfg)


class PreActivationNet(BaseBackbone):
    """Stem, stages and a last normalisation, as both backbones have them.

    The names of the layers are those of the published networks, so their
    checkpoints fit after renaming.
    """

    #: Names of the stages.
    stages: Sequence[str]
    #: Name of the normalisation after the last stage.
    last_norm: str

    def __init__(
        self,
        norm_cfg: dict[str, Any],
        act_cfg: dict[str, Any],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: dict[str, Any] | Sequence[dict[str, Any]] | None,
    ) -> None:
        super().__init__(init_cfg)
        if not -1 <= frozen_stages <= len(self.stages):
            raise ValueError(
                f'frozen_stages={frozen_stages!r} must be from -1, none, to '
                f'{len(self.stages)}, all'
            )
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def make_stage(
        self,
        number: int,
        block: Callable[[int, int], nn.Module],
        num_blocks: int,
        channels: tuple[int, int],
    ) -> nn.Sequential:
        """A stage's blocks in a row; from the second stage on it halves sizes.

        Args:
            number (int): Of the stage, from 0.
            block (Callable): From input channels and stride to a block.
            num_blocks (int): How many blocks.
            channels (tuple[int, int]): Into and out of the stage; only its
                first block has the former.
        """
        first, others = channels
        stride = 1 if number == 0 else 2
        return nn.Sequential(
            block(first, stride),
            *(block(others, 1) for _ in range(num_blocks - 1)),
        )

    def freeze_stages(self) -> None:
        """Stop training the stem and the first ``frozen_stages`` stages."""
        if self.frozen_stages >= 0:
            for name in ('conv1', *self.stages[: self.frozen_stages]):
                getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Any:
        """Set the mode; frozen stages and ``norm_eval`` stay in eval mode."""
        super().train(mode)
        self.freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps.

        Args:
            x (Tensor): Normalised images, shape (N, 3, H, W).

        Returns:
            tuple[Tensor]: One map, of shape (N, C, H', W').
        """
        x = self.conv1(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return (self.activate(getattr(self, self.last_norm)(x)),)
