from __future__ import annotations

import copy
import gc
import weakref
from typing import Callable

import pytest
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from tiny import classifier_cfg
from torch import Tensor, nn

from m2at_mm.attacks.conv_norm_pairs import find_pairs

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Staged(nn.Module):
    """In its second stage it reads its convolution's output once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.stage = 1
        self.settings = {'stages': [('first', {'skip': False})]}
        self.skipped: set[str] = set()
        self.scale: float | Tensor = 2.0
        self.activation: Callable[[Tensor], Tensor] = torch.relu
        self.forwards = Counter()

    def forward(self, images: Tensor) -> Tensor:
        self.forwards.add()
        features = self.conv(images)
        result = self.activation(self.norm(features))
        (_, settings) = self.settings['stages'][0]
        if self.stage == 2 or settings['skip'] or 'norm' in self.skipped:
            result = result + features
        return (result * self.scale).mean((2, 3))


class Counter:
    """Counts where no module's content changes."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        self.count += 1


def searches(network: Staged, images: Tensor = IMAGES) -> tuple[int, int]:
    """How many forward passes a search took, and how many pairs it found."""
    before = network.forwards.count
    found = find_pairs(network, images)
    return network.forwards.count - before, len(found)


def test_pairs_of_a_resnet_in_order() -> None:
    network = MMPRETRAIN_MODELS.build(classifier_cfg()).eval()
    modules = {module: name for name, module in network.named_modules()}
    pairs = [
        (modules[pair.conv], modules[pair.norm])
        for pair in find_pairs(network, torch.rand(2, 3, 32, 32))
    ]
    assert len(pairs) == 20
    assert pairs[0] == ('backbone.conv1', 'backbone.bn1')
    first = 'backbone.layer2.0.'
    start = pairs.index((f'{first}conv1', f'{first}bn1'))
    assert pairs[start : start + 3] == [
        (f'{first}conv1', f'{first}bn1'),
        (f'{first}conv2', f'{first}bn2'),
        (f'{first}downsample.0', f'{first}downsample.1'),
    ]


def test_one_search_for_all_attacks() -> None:
    network = Staged().eval()
    assert searches(network) == (1, 1)
    assert searches(network) == (0, 1)
    with torch.no_grad():
        network.conv.weight.mul_(2)
        network.norm.running_mean.add_(1)
    assert searches(network, 1 - IMAGES[:3]) == (0, 1)
    assert searches(network, IMAGES[:0]) == (0, 0)
    assert searches(network) == (0, 1)


def second_stage(network: Staged) -> None:
    network.stage = 2


def deep_in_a_container(network: Staged) -> None:
    network.settings['stages'][0][1]['skip'] = True


def member_of_a_set(network: Staged) -> None:
    network.skipped.add('norm')


def another_hook(network: Staged) -> None:
    network.norm.register_forward_hook(lambda *args: None)


def forward_of_the_instance(network: Staged) -> None:
    network.norm.forward = lambda x: x + 1


def compiled_in_place(network: Staged) -> None:
    network.compile(backend='eager')


@pytest.mark.parametrize(
    'change',
    [
        second_stage,
        deep_in_a_container,
        member_of_a_set,
        another_hook,
        forward_of_the_instance,
        compiled_in_place,
    ],
)
def test_what_takes_a_pair_away(change: Callable[[Staged], None]) -> None:
    network = Staged().eval()
    assert searches(network) == (1, 1)
    change(network)
    assert searches(network)[1] == 0


def test_modules_of_a_container_are_watched() -> None:
    network = Staged().eval()
    searches(network)
    network.norm = nn.BatchNorm2d(6).eval()
    assert searches(network) == (1, 1)
    assert find_pairs(network, IMAGES)[0].norm is network.norm
    nn.utils.parametrizations.spectral_norm(network.conv)
    network.eval()
    assert searches(network)[1] == 0


def test_other_changes_are_looked_into() -> None:
    network = Staged().eval()
    searches(network)
    for name, value in {
        'scale': torch.tensor(2.0),
        'activation': torch.tanh,
        'settings': None,
        'other': 1,
    }.items():
        if name == 'settings':
            value = copy.deepcopy(network.settings)
            value['stages'].append(('second', {}))
        setattr(network, name, value)
        assert searches(network) == (1, 1), name
        assert searches(network) == (0, 1), name


def test_images_of_another_kind() -> None:
    network = Staged().eval()
    searches(network)
    wide = torch.rand(4, 3, 8, 10)
    assert searches(network, wide) == (1, 1)
    layout = IMAGES.contiguous(memory_format=torch.channels_last)
    assert searches(network, layout) == (1, 1)
    with torch.autocast('cpu'):
        assert searches(network, layout) == (1, 1)
    assert searches(network.double(), layout.double()) == (1, 1)


def test_a_method_of_the_class_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Staged().eval()
    searches(network)
    plain = Staged.forward

    def doubled(self: Staged, images: Tensor) -> Tensor:
        return 2 * plain(self, images)

    monkeypatch.setattr(Staged, 'forward', doubled)
    assert searches(network) == (1, 1)


def test_a_content_without_end() -> None:
    network = Staged().eval()
    network.settings['itself'] = network.settings
    assert searches(network) == (1, 1)
    assert searches(network) == (0, 1)


def test_a_copy_searches_by_itself_and_nothing_is_kept_alive() -> None:
    network = Staged().eval()
    searches(network)
    again = copy.deepcopy(network)
    assert searches(again) == (1, 1)
    (pair,) = find_pairs(again, IMAGES)
    assert pair.conv is again.conv and pair.norm is again.norm
    seen = weakref.ref(again)
    del again, pair
    gc.collect()
    assert seen() is None
