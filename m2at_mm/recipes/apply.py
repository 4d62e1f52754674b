"""Turn any mmpretrain classification config adversarial."""

import copy
import logging
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier, BaseRetriever, ImageClassifier
from mmpretrain.models.selfsup import BaseSelfSupervisor

from m2at_mm.checks import check_choice
from m2at_mm.model_wrappers.heads import why_unsupported
from m2at_mm.recipes import fit
from m2at_mm.registry import type_name

# Hooks of MMEngine that ours replace.
_STOCK = dict(checkpoint='CheckpointHook', runtime_info='RuntimeInfoHook')
_MMENGINES_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
# What a recipe sets in the model, where no classifier has it.
_OF_RECIPES = (
    'threat_model',
    'train_attack',
    'method',
    'eval_attacks',
    'label_smoothing',
)
# mmpretrain datasets that have only train and test files; ours of the same
# name hold a validation split out of the training files.
_HELD_OUT = {'CIFAR10', 'CIFAR100'}

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
    """Why a config can't train adversarially, and the remedy, if any."""
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
    kind = fit.model_class(model.get('type'))
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
    head_kind = fit.model_class((head or {}).get('type'))
    why = None if head_kind is None else why_unsupported(head_kind)
    return why and f'its head {type_name(head_kind)} {why}'


def config_root() -> Path:
    """The folder of this package's configs, installed or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / '.mim' / 'configs', package.parent / 'configs'):
        if (root / '_base_' / 'recipes').is_dir():
            return root
    raise FileNotFoundError(
        f'the configs of m2at_mm are neither in {package / ".mim"} nor beside '
        f'{package}: install m2at_mm again with pip'
    )


def recipe_names() -> list[str]:
    """The names of all recipes, sorted."""
    folder = config_root() / '_base_' / 'recipes'
    return sorted(path.stem for path in folder.glob('*.py'))


def apply_recipe(cfg: Config, name: str, **overrides: Any) -> Config:
    """Make a classification config train and validate adversarially.

    The model is wrapped in an ``AdversarialClassifier`` with the recipe's
    threat model, attacks and method. The best checkpoint is chosen by robust
    accuracy, on images held out of the training set where mmpretrain's
    dataset has no validation split. The rest, but for a fine-tuning recipe's
    schedule, stays the config's own.

    For images of more than 64 pixels the radius becomes 4/255, with steps in
    proportion. M2AT's masks are made of a vision transformer's patches, and
    its labels stay hard where the config's loss takes no others.

    Args:
        cfg (Config): Any single-label classification config of mmpretrain.
            It is not changed.
        name (str): One of :func:`recipe_names`, e.g. ``'m2at'``.
        **overrides: Merged into the recipe's ``model``, like
            ``threat_model=dict(eps='4/255')``.

    Raises:
        ValueError: There is no such recipe, or the config is adversarial
            already or none of single-label classification.
    """
    check_choice('recipe', name, recipe_names())
    reason = why_refused(cfg)
    if reason is not None:
        raise ValueError(f'recipe {name!r} cannot be applied: {reason}')
    recipe = Config.fromfile(config_root() / '_base_/recipes' / f'{name}.py')
    if 'eps' not in overrides.get('threat_model', {}):
        fit.fit_radius(recipe, cfg)
    fit.fit_m2at(recipe, cfg.model)
    recipe.merge_from_dict(dict(model=overrides))
    cfg = copy.deepcopy(cfg)
    recipe.model.classifier = cfg.model
    cfg.model = recipe.model
    _hold_out_validation(cfg)
    _select_under_attack(cfg)
    if 'train_cfg' in recipe:
        cfg.train_cfg = recipe.train_cfg
        cfg.param_scheduler = recipe.param_scheduler
        _count_epochs(cfg)
    cfg.merge_from_dict(dict(default_hooks=recipe.get('default_hooks', {})))
    drop_switched_off(cfg)
    return cfg


def drop_switched_off(cfg: Config) -> None:
    """Take out default hooks that are None, but those of MMEngine itself.

    It takes None for its own ones, which it adds otherwise, and for no other.
    """
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name in hooks if hooks[name] is None]:
        if name not in _MMENGINES_HOOKS:
            hooks.pop(name)


def with_named_recipe(cfg: Config) -> Config:
    """Apply the recipe that a config names itself, if it does.

    It is named by ``recipe='m2at'``, or ``recipe=dict(name='m2at',
    method=dict(scale=1.5))`` with overrides as of :func:`apply_recipe`, which
    ``--cfg-options model.method.scale=1.5`` of mmpretrain's tools are, too.

    Raises:
        ValueError: See :func:`apply_recipe`.
    """
    if 'recipe' not in cfg:
        return cfg
    cfg = copy.deepcopy(cfg)
    given = cfg.pop('recipe')
    cfg.pop('runner_type', None)
    recipe = Config(given if isinstance(given, dict) else dict(name=given))
    check_choice('recipe', recipe.get('name'), recipe_names())
    model = cfg.get('model') or {}
    late = {key: model.pop(key) for key in _OF_RECIPES if key in model}
    recipe.merge_from_dict(late)
    return apply_recipe(cfg, **recipe.to_dict())


def _count_epochs(cfg: Config) -> None:
    sampler = (cfg.get('train_dataloader') or {}).get('sampler')
    if sampler and _type(sampler) == 'InfiniteSampler':
        sampler.type = 'DefaultSampler'
    hooks = cfg.default_hooks
    if hooks.checkpoint and not hooks.checkpoint.get('by_epoch', True):
        hooks.checkpoint.update(by_epoch=True, interval=1)
    if 'log_metric_by_epoch' in (hooks.get('logger') or {}):
        hooks.logger.log_metric_by_epoch = True
    if cfg.get('log_processor'):
        cfg.log_processor.by_epoch = True


def _hold_out_validation(cfg: Config) -> None:
    train, val = (fit.loaded_datasets(cfg, one) for one in ('train', 'val'))
    if not train or not val:
        return
    tested = [dataset for dataset in val if dataset.get('split') == 'test']
    replaced = sorted(_HELD_OUT & {*map(_type, train)} & {*map(_type, tested)})
    if replaced:
        # One dict may serve as validation and test dataset.
        cfg.val_dataloader = copy.deepcopy(cfg.val_dataloader)
        for loader in ('train', 'val', 'test'):
            for dataset in fit.loaded_datasets(cfg, loader):
                if _type(dataset) in replaced:
                    dataset.type = f'm2at_mm.{_type(dataset)}'
                    if loader == 'val' and dataset.get('split') == 'test':
                        dataset.split = 'val'
        ours = ', '.join(f'm2at_mm.{name}' for name in replaced)
        print_log(
            'validation uses images held out of the training set: '
            f'{", ".join(replaced)} is read by {ours}',
            logger='current',
        )
    elif val == fit.loaded_datasets(cfg, 'test'):
        print_log(
            'validation and test use the same images: the best checkpoint is '
            'chosen on the test set, which overestimates its robustness. '
            'Give val_dataloader images of its own, see docs/your_config.md',
            logger='current',
            level=logging.WARNING,
        )


def _type(dataset: ConfigDict) -> str:
    return type_name(dataset.get('type'))


def _select_under_attack(cfg: Config) -> None:
    runtime = Config.fromfile(config_root() / '_base_' / 'default_runtime.py')
    for part in ('val', 'test'):
        key = f'{part}_evaluator'
        if cfg.get(f'{part}_dataloader') is None:
            # An empty loop config without data would end in an error.
            cfg[f'{part}_cfg'] = cfg[key] = None
            continue
        if cfg.get(f'{part}_cfg') is None:
            cfg[f'{part}_cfg'] = dict()  # forgotten in some stock configs
        cfg[key] = _with_metric(cfg.get(key), runtime[key])
    hooks = runtime.default_hooks.items()
    ours = {k: hook for k, hook in hooks if hook.type.startswith('m2at_mm.')}
    ours['checkpoint'].pop('interval', None)  # the config's own stays
    ours['checkpoint'].pop('max_keep_ckpts', None)
    if cfg.get('val_dataloader') is None:
        ours['checkpoint'].pop('save_best')
    given = cfg.get('default_hooks') or {}
    for name in [name for name in ours if given.get(name, name) is None]:
        ours.pop(name)  # switched off
    if 'type' in (given.get('ema') or {}):
        ours.pop('ema')  # one of the user's own
    for name, stock in _STOCK.items():
        hook = given.get(name, {})
        if hook and type_name(hook.get('type', stock)) != stock:
            ours[name].pop('type')  # one of the user's own
    cfg.merge_from_dict(dict(default_hooks=ours))
    wrapper = dict(runtime.model_wrapper_cfg)
    if cfg.get('find_unused_parameters'):
        # MMEngine reads it only where there is no model_wrapper_cfg.
        wrapper['find_unused_parameters'] = True
    cfg.setdefault('model_wrapper_cfg', wrapper)


def _with_metric(evaluator: Any, metric: ConfigDict) -> Any:
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        metrics = _with_metric(evaluator['metrics'], metric)
        return dict(evaluator, metrics=metrics)
    given = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return [*filter(None, given), metric]
