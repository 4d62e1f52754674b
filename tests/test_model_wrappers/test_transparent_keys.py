"""State dicts that leave a child's name out."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import TimmClassifier
from torch import nn

from m2at_mm.model_wrappers.transparent_keys import make_transparent


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        make_transparent(self, 'inner')


class TimmLike(nn.Module):
    """Leaves out its own child's name with mmpretrain's hooks for timm."""

    def __init__(self) -> None:
        super().__init__()
        self.model, cls = nn.Linear(2, 3), TimmClassifier
        self._register_state_dict_hook(cls._remove_state_dict_prefix)
        self._register_load_state_dict_pre_hook(cls._add_state_dict_prefix)


class Versioned(nn.Linear):
    """Would convert checkpoints by their version, as Swin does."""

    _version = 3
    seen = None

    def _load_from_state_dict(self, *args: Any) -> None:
        self.seen = args[2].get('version')
        super()._load_from_state_dict(*args)


def plain() -> nn.Module:
    return nn.Sequential(Versioned(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize('build', [plain, TimmLike])
def test_keys_are_the_childs_both_ways(build: Callable[[], nn.Module]) -> None:
    wrapper, child = Wrapper(build()), build()
    ours, theirs = wrapper.state_dict(), child.state_dict()
    assert list(ours) == list(theirs)
    assert build is TimmLike or dict(ours._metadata) == dict(theirs._metadata)
    for load in (load_state_dict, nn.Module.load_state_dict):
        other = Wrapper(build())
        load(other, child.state_dict(), strict=True)
        child.load_state_dict(wrapper.state_dict(), strict=True)
        load(wrapper, other.state_dict(), strict=True)
        assert build is TimmLike or other.inner[0].seen == 3
        assert all(map(torch.equal, wrapper.parameters(), other.parameters()))


def test_works_below_another_module_and_in_a_copy() -> None:
    def nested() -> nn.Module:
        return nn.ModuleDict(dict(a=Wrapper(plain()), b=nn.Linear(1, 1)))

    outer, other = copy.deepcopy(nested()), nested()
    keys = list(outer.state_dict())
    assert 'a.0.weight' in keys and not any('inner' in key for key in keys)
    other.load_state_dict(outer.state_dict(), strict=True)
    assert all(map(torch.equal, other.parameters(), outer.parameters()))


def test_wrong_keys_are_still_reported() -> None:
    given = {'0.weight': torch.zeros(3, 2), 'x': torch.zeros(1)}
    result = Wrapper(plain()).load_state_dict(given, strict=False)
    assert result.unexpected_keys == ['inner.x']
    assert 'inner.0.bias' in result.missing_keys
