"""Which configs a recipe can be applied to."""

from mmengine.config import Config, ConfigDict
from mmpretrain.models import BaseClassifier, BaseRetriever, ImageClassifier
from mmpretrain.models.selfsup import BaseSelfSupervisor

from m2at_mm.model_wrappers.heads import why_unsupported
from m2at_mm.recipes.fit import model_class
from m2at_mm.registry import type_name

# Why a kind of model is refused; the first one that fits counts.
_KINDS: dict[type, str | None] = {
    BaseSelfSupervisor: 'learns without labels (self-supervised), but the '
    "attacks need an image's class: fine-tune its backbone as a classifier",
    BaseRetriever: 'retrieves images, but the attacks need classes: give a '
    'classification config',
    BaseClassifier: None,
    object: 'is not a classifier of single-label images: give an '
    'ImageClassifier, TimmClassifier or HuggingFaceClassifier',
}


def is_adversarial(cfg: Config) -> bool:
    """Whether the config's model is an adversarial classifier already."""
    kind = (cfg.get('model') or {}).get('type')
    return type_name(kind) == 'AdversarialClassifier'


def why_refused(cfg: Config) -> str | None:
    """Why a config can't train adversarially, None if it can.

    The text has the reason and the remedy, and no full stop.
    """
    if not cfg.get('model'):
        return 'the config has no model: give a classification config'
    if is_adversarial(cfg):
        return (
            'the model is a m2at_mm.AdversarialClassifier already. Use the '
            'config without a recipe, or change its model.method'
        )
    reason = _why_model_refused(cfg.model)
    if reason is None and 'DeepSpeed' in str(cfg.get('strategy')):
        reason = (
            'strategy=DeepSpeedStrategy brings an engine of its own, in which '
            'an attack has not been tried: remove strategy, runner_type and '
            'the DeepSpeed optim_wrapper, and train with DDP'
        )
    return reason


def _why_model_refused(model: ConfigDict) -> str | None:
    name = type_name(model.get('type'))
    kind = model_class(model.get('type'))
    if kind is None:
        return (
            f'model type {name!r} is in no registry: import the module that '
            'registers it by custom_imports'
        )
    # A placeholder stands for what needs a package that is not installed.
    if not isinstance(kind, type):
        kind = object
    reason = next(_KINDS[one] for one in _KINDS if issubclass(kind, one))
    if reason is not None:
        return f'{name} {reason}'
    head = model.get('head')
    if kind is ImageClassifier and not head:
        return (
            f'{name} has no head: it gives features, not classes. Add a head '
            'for your classes'
        )
    head_kind = model_class((head or {}).get('type'))
    why = None if head_kind is None else why_unsupported(head_kind)
    return why and f'its head {type_name(head_kind)} {why}'
