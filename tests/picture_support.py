"""Digits under attack by a tiny network, and what a picture shows of them."""

from typing import Any

import torch
from tiny import build_adversarial
from torch import Tensor

N, K, EPS = 3, 10, 32 / 255
NAMES = [f'digit-{k}' for k in range(K)]
Batch = tuple[Tensor, Tensor]


def tiny_model(norm: str = 'linf', method: Any = None, **attack: Any) -> Any:
    """M2AT or another method, under PGD of two steps or another attack."""
    return build_adversarial(
        method=dict(type='m2at_mm.M2AT') | (method or {}),
        threat_model=dict(norm=norm, eps='32/255'),
        train_attack=dict(type='m2at_mm.PGD') | (attack or dict(steps=2)),
    ).eval()


def made(kind: Any, batch: Batch, **method: Any) -> Any:
    """What a picture shows, with the draws of seed 1."""
    model = tiny_model(method=method)
    torch.manual_seed(1)
    return kind.of(model, *batch)


def shown(axis: Any) -> Tensor:
    """The image in a panel, shape (C, H, W)."""
    return torch.as_tensor(axis.images[0].get_array()).permute(2, 0, 1)
