"""Checkpoints that are damaged, or of another network."""

from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from tiny import classifier_cfg

DEEP = 'backbone.layer4.{}.conv1.weight'
HEADS = ('other-classes', 'missing', 'another-kind')
# What is changed, and how the error begins.
CHANGED = {
    'wider': r'does not fit the model: .*shape',
    'shallower': rf'1 of \d+ tensors .*{DEEP.format(1)}',
    'deeper': rf'1 of \d+ tensors .*{DEEP.format(2)}',
    **dict.fromkeys(HEADS, r'does not fit the model.*head\.'),
}


def save(path: Path, change: str = '', prefix: str = '') -> str:
    """A checkpoint of stock mmpretrain, of the same or another network."""
    width, classes = 4 + 4 * (change == 'wider'), 10
    if change == 'other-classes':
        classes = 100
    cfg = classifier_cfg(classes, base_channels=width, stem_channels=width)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        weights = MODELS.build(cfg).state_dict()
    if change == 'shallower':
        del weights[DEEP.format(1)]
    elif change == 'deeper':
        weights[DEEP.format(2)] = torch.zeros(1)
    for key in ('head.fc.weight', 'head.fc.bias'):
        if change == 'another-kind':
            weights[key.replace('fc', 'layers.0')] = weights[key]
        if change in ('missing', 'another-kind'):
            del weights[key]
    weights = {prefix + key: value for key, value in weights.items()}
    torch.save(dict(meta={}, state_dict=weights), path)
    return str(path)


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


BROKEN = 'damaged or none of PyTorch'
DAMAGED = {'missing': 'is not a file', 'cut off': BROKEN, 'empty': BROKEN}
DAMAGED |= {'text': 'is damaged', 'code': 'could run code'}
DAMAGED |= {'tensor': 'holds a Tensor in place'}


def damage(kind: str, whole: Path, path: Path, mark: Path) -> None:
    """Write a damaged copy, or code that would write a mark."""
    content = whole.read_bytes()
    if kind == 'code':
        torch.save(dict(state_dict=Planted(mark)), path)
    elif kind == 'tensor':
        torch.save(torch.zeros(3), path)
    elif kind != 'missing':
        cut = content[: len(content) // 2] if kind == 'cut off' else b''
        path.write_bytes(b'<html>404</html>' if kind == 'text' else cut)
