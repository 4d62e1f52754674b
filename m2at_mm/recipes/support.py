"""Which configs a recipe can be applied to."""

from __future__ import annotations

from typing import Optional

from mmengine.config import Config, ConfigDict
from mmpretrain.models import BaseClassifier, BaseRetriever
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS

from m2at_mm.model_wrappers.heads import why_unsupported


def why_refused(cfg: Config) -> Optional[str]:
    """Why a config can't train adversarially, None if it can.

    Args:
        cfg (Config): Of mmpretrain.

    Returns:
        str, optional: The reason and the remedy, without a full stop.
    """
    model = cfg.get('model')
    if not model:
        return 'the config has no model: give a classification config'
    reason = _why_model_refused(model)
    if reason is None and 'DeepSpeed' in str(
        (cfg.get('strategy') or {}).get('type')
    ):
        reason = (
            'strategy=DeepSpeedStrategy brings an engine of its own, in which '
            'an attack has not been tried: remove strategy, runner_type and '
            'the DeepSpeed optim_wrapper, and train with DDP'
        )
    return reason


def _why_model_refused(model: ConfigDict) -> Optional[str]:
    name = model.get('type')
    kind = name if isinstance(name, type) else MODELS.get(str(name))
    if kind is None:
        return (
            f'model type {name!r} is in no registry: import the module that '
            'registers it by custom_imports'
        )
    # A placeholder stands for what needs a package that is not installed.
    if not isinstance(kind, type):
        kind = object
    if issubclass(kind, BaseSelfSupervisor):
        return (
            f'{name} learns without labels (self-supervised), but the attacks '
            "need an image's class: fine-tune its backbone as a classifier"
        )
    if issubclass(kind, BaseRetriever):
        return (
            f'{name} retrieves images, but the attacks need classes: give a '
            'classification config'
        )
    if not issubclass(kind, BaseClassifier):
        return (
            f'{name} is not a classifier of single-label images: give an '
            'ImageClassifier, TimmClassifier or HuggingFaceClassifier'
        )
    if 'backbone' not in model:  # of timm or Hugging Face, with its own head
        return None
    head = model.get('head')
    if not head:
        return (
            f'{name} has no head: it gives features, not classes. Add a head '
            'for your classes'
        )
    head_type = head.get('type')
    head_kind = (
        head_type if isinstance(head_type, type) else MODELS.get(head_type)
    )
    reason = why_unsupported(head_kind) if head_kind is not None else None
    return reason and f'its head {head_type} {reason}'
