"""State dicts of a wrapper that look like those of its child."""

from collections import OrderedDict
from functools import partial
from typing import Any

from torch import nn


def make_transparent(wrapper: nn.Module, child: str) -> None:
    """Leave a child's name out of the state dict's keys, both ways.

    The wrapper must have no parameter or persistent buffer of its own, and
    the child's name must not be ``'module'``, which MMEngine strips itself.
    """
    wrapper._register_state_dict_hook(partial(_leave_out, child))
    wrapper._register_load_state_dict_pre_hook(partial(_put_in, child))


def _leave_out(
    child: str, wrapper: nn.Module, state_dict: Any, prefix: str, *_: Any
) -> None:
    module = getattr(wrapper, child)
    if module._state_dict_hooks:
        # A hook that returns a new dict, as that of timm's and Hugging
        # Face's classifiers, is heard only on a root module.
        old = [k for k in state_dict if k.startswith(f'{prefix}{child}.')]
        for key in old:
            del state_dict[key]
        for key, value in module.state_dict().items():
            state_dict[prefix + key] = value
    else:
        _rename(state_dict, f'{prefix}{child}.', prefix)
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        # The child's own entry takes the wrapper's place.
        own = metadata.pop(f'{prefix}{child}', None)
        _rename(metadata, f'{prefix}{child}.', prefix)
        if own is not None:
            metadata[prefix[:-1]] = own


def _put_in(child: str, state_dict: Any, prefix: str, *_: Any) -> None:
    _rename(state_dict, prefix, f'{prefix}{child}.')
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        for key, value in OrderedDict(metadata).items():
            if key == prefix[:-1]:
                metadata[f'{prefix}{child}'] = value
            elif key.startswith(prefix):
                metadata[f'{prefix}{child}.{key[len(prefix) :]}'] = value


def _rename(entries: dict[str, Any], old: str, new: str) -> None:
    for key in [key for key in entries if key.startswith(old)]:
        entries[new + key[len(old) :]] = entries.pop(key)
