"""State dicts that leave a child's name out."""

from __future__ import annotations

import copy

import torch
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import TimmClassifier
from torch import nn

from m2at_mm.model_wrappers.transparent_keys import make_transparent


class _Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        make_transparent(self, 'inner')


def test_keys_and_versions_are_the_childs() -> None:
    wrapper = _Wrapper()
    assert list(wrapper.state_dict()) == list(wrapper.inner.state_dict())
    ours, theirs = wrapper.state_dict(), wrapper.inner.state_dict()
    assert dict(ours._metadata) == dict(theirs._metadata)


def test_loads_what_the_child_saved_and_the_other_way() -> None:
    wrapper, plain = (
        _Wrapper(),
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    )
    wrapper.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(wrapper.inner[0].weight, plain[0].weight)
    nn.init.ones_(wrapper.inner[0].weight)
    plain.load_state_dict(wrapper.state_dict(), strict=True)
    assert torch.equal(plain[0].weight, torch.ones(3, 2))


def test_works_below_another_module_and_in_a_copy() -> None:
    outer = copy.deepcopy(nn.ModuleDict(dict(a=_Wrapper(), b=nn.Linear(1, 1))))
    keys = list(outer.state_dict())
    assert 'a.0.weight' in keys and not any('inner' in key for key in keys)
    other = nn.ModuleDict(dict(a=_Wrapper(), b=nn.Linear(1, 1)))
    other.load_state_dict(outer.state_dict(), strict=True)
    for mine, theirs in zip(other.parameters(), outer.parameters()):
        assert torch.equal(mine, theirs)


def test_wrong_keys_are_still_reported() -> None:
    result = _Wrapper().load_state_dict(
        {'0.weight': torch.zeros(3, 2), 'x': torch.zeros(1)}, strict=False
    )
    assert result.unexpected_keys == ['inner.x']
    assert 'inner.0.bias' in result.missing_keys


class _TimmLike(nn.Module):
    """Leaves out its own child's name with mmpretrain's hooks for timm."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 3)
        self._register_state_dict_hook(
            TimmClassifier._remove_state_dict_prefix
        )
        self._register_load_state_dict_pre_hook(
            TimmClassifier._add_state_dict_prefix
        )


class _AroundTimm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = _TimmLike()
        make_transparent(self, 'classifier')


def test_a_child_that_renames_its_keys_itself_is_transparent_too() -> None:
    wrapper, plain = _AroundTimm(), _TimmLike()
    assert list(wrapper.state_dict()) == list(plain.state_dict())
    assert list(plain.state_dict()) == ['weight', 'bias']
    wrapper.load_state_dict(plain.state_dict(), strict=True)
    again = _AroundTimm()
    again.load_state_dict(wrapper.state_dict(), strict=True)
    load_state_dict(again, wrapper.state_dict(), strict=True)  # MMEngine's
    assert torch.equal(again.classifier.model.weight, plain.model.weight)
