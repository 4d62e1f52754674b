"""Checks of data, checkpoint and settings before any work starts."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dataset import default_collate, pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn
from torch.utils.data import Subset

from m2at_mm import checkpoint_files
from m2at_mm.datasets.inside import inner_datasets, labelled_datasets
from m2at_mm.evaluation import robust_accuracy
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS, type_name
from m2at_mm.runner.train_loops import is_training

# The last layer in mmpretrain's classifiers, and in those of timm and others.
_HEADS = ('head.', 'fc.', 'classifier.')
# Counts that no result depends on, and tables that transformers fit to the
# image size while they load.
_OPTIONAL = 'num_batches_tracked|pos_embed|relative_(position|coords)'


@HOOKS.register_module()
class InputCheckHook(Hook):
    """Refuse data and checkpoints that don't fit the model, at the start.

    A run ends with one clear error before the first iteration if

    - the checkpoint is missing, damaged or holds anything but data;
    - the checkpoint has another network's parameters. In training, those of
      the head may be missing or of another shape, as in fine-tuning;
    - a label is outside the model's classes, or stands for another class in
      validation than in training;
    - a dataset gives whole batches to a ``collate_fn`` of samples;
    - the dataset crops or flips, and so does the preprocessor;
    - robust accuracy is asked of a model that averages several views;
    - ``save_best`` names an attack that ``eval_attacks`` doesn't have;
    - pretrained weights that an ``init_cfg`` names are not there.

    Args:
        needs_checkpoint (bool): Refuse to train from random weights.

    Raises:
        ValueError: At the start, one of these is found.
        FileNotFoundError: The file of a checkpoint is missing.
    """

    priority = 'VERY_HIGH'

    def __init__(self, needs_checkpoint: bool = False) -> None:
        self.needs_checkpoint = needs_checkpoint

    def before_run(self, runner: Runner) -> None:
        start = runner._load_from
        last = Path(runner.work_dir, 'last_checkpoint')
        if start is None and runner._resume and last.is_file():
            start = find_latest_checkpoint(runner.work_dir)
        if start is not None and '://' not in str(start):
            _check_readable(str(start))
        if not is_training(runner):
            return
        pretrained = _pretrained(_network(runner))
        for key, path in pretrained.items():
            if '://' not in path and not Path(path).expanduser().is_file():
                raise FileNotFoundError(
                    f'model.{key}.init_cfg.checkpoint={path!r} is not a file: '
                    'give that of the pretrained weights, e.g. with '
                    '--cfg-options, or remove the init_cfg'
                )
        # Classifiers of timm and Hugging Face load by themselves.
        classifier = runner.cfg.get('model', {}).get('classifier') or {}
        weights = start or pretrained or classifier.get('pretrained')
        if self.needs_checkpoint and not weights:
            raise ValueError(
                'fine-tuning needs trained weights, but load_from is empty: '
                'give --cfg-options load_from=CHECKPOINT, or train from the '
                'start with the recipe without -finetune'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        # MMEngine would run this text as Python, for a setting of its first
        # versions; no checkpoint of MMEngine 0.10 has it.
        checkpoint.get('meta', {}).pop('config', None)
        weights = checkpoint.get('state_dict', checkpoint)
        # A model saved from inside DataParallel; MMEngine strips it, too.
        loaded, own = (
            {k.removeprefix('module.'): getattr(v, 'shape', v) for k, v in one}
            for one in (weights.items(), _network(runner).state_dict().items())
        )
        may_differ = is_training(runner) and not runner._resume
        problems = [
            key
            for key in own | loaded
            if not re.search(_OPTIONAL, key)
            and not (may_differ and key.startswith(_HEADS))
            and own.get(key) != loaded.get(key)
        ]
        if problems:
            more = ', ...' if len(problems) > 3 else ''
            raise ValueError(
                f'the checkpoint does not fit the model: {len(problems)} of '
                f'{len(own)} tensors are missing, superfluous or of another '
                f'shape, {", ".join(problems[:3])}{more}. Give the checkpoint '
                'of a network of this config (load_from, --resume or '
                'CHECKPOINT), or the config that belongs to it'
            )

    def before_train(self, runner: Runner) -> None:
        _check_labels(runner, runner.train_dataloader.dataset)
        _check_collation(runner.train_dataloader)
        _check_augmented_once(runner)
        if runner.val_loop is not None:
            _check_labels(runner, runner.val_dataloader.dataset)
            _check_classes(runner)
            _check_save_best(runner)

    def before_test(self, runner: Runner) -> None:
        evaluator = getattr(runner.test_loop, 'evaluator', None)
        metrics = map(type, getattr(evaluator, 'metrics', ()))
        if isinstance(bare_model(runner.model), BaseTTAModel) and any(
            issubclass(one, robust_accuracy.RobustAccuracy) for one in metrics
        ):
            robust_accuracy.refuse_several_views()
        _check_labels(runner, runner.test_dataloader.dataset)


def _network(runner: Runner) -> Any:
    """What has the weights: also the model inside one of several views."""
    model = bare_model(runner.model)
    return model.module if isinstance(model, BaseTTAModel) else model


def _check_readable(path: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'the checkpoint {path!r} is not a file: give the path of one '
            '(load_from, --resume or CHECKPOINT)'
        )
    try:
        checkpoint = checkpoint_files.read(path, 'meta')
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(
            f'the checkpoint {path!r} is damaged or none of PyTorch, perhaps '
            'cut off while it was copied: give another one, like an earlier '
            f'one of the same folder ({_brief(error)})'
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'the checkpoint {path!r} is damaged, or holds more than data and '
            'is not loaded, as it could run code. If you trust its source, '
            f'save its weights alone with torch.save ({_brief(error)})'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f'the checkpoint {path!r} holds a {type(checkpoint).__name__} in '
            'place of a dict of tensors: give one of mmpretrain or this '
            'package, or convert it with tools/convert_checkpoint.py'
        )


def _brief(error: Exception) -> str:
    return str(error).strip().split('\n')[0][:100]


def _pretrained(model: nn.Module) -> dict[str, str]:
    found = {}
    for name, module in model.named_modules():
        given = getattr(module, 'init_cfg', None) or ()
        inits = [given] if isinstance(given, dict) else filter(None, given)
        for init in inits:
            if type_name(init['type']) in ('Pretrained', 'PretrainedInit'):
                found[name] = str(init.get('checkpoint', ''))
    return found


def _check_labels(runner: Runner, dataset: Any) -> None:
    num_classes: int | None = getattr(_network(runner), 'num_classes', None)
    if num_classes is None:
        return
    for part, labels in labelled_datasets(dataset):
        outside = labels[(labels < 0) | (labels >= num_classes)]
        if len(outside):
            raise ValueError(
                f'{type(part).__name__} has label {outside[0]}, outside the '
                f"model's classes 0 to {num_classes - 1} ({len(outside)} of "
                f'{len(labels)} images): set num_classes in head and '
                "data_preprocessor to the dataset's number of classes, or "
                'mend the labels'
            )


def _check_classes(runner: Runner) -> None:
    """The same label is the same class; outputs without a class are told."""
    trained, validated = (
        getattr(loader.dataset, 'metainfo', {}).get('classes') or ()
        for loader in (runner.train_dataloader, runner.val_dataloader)
    )
    for label, (one, other) in enumerate(zip(trained, validated)):
        if one != other:
            raise ValueError(
                f'label {label} is {one!r} in the training set and {other!r} '
                'in the validation set, as where a class folder is missing: '
                f'give both datasets classes={[*trained]}, or add the folder'
            )
    outputs = getattr(_network(runner), 'num_classes', None)
    if trained and outputs not in (None, len(trained)):
        runner.logger.warning(
            f'the training set names {len(trained)} classes and the model has '
            f'{outputs} outputs: set num_classes in head and '
            f'data_preprocessor to {len(trained)}, or remove class folders '
            'that are empty; tools/test.py refuses such a model'
        )


def _check_collation(loader: Any) -> None:
    function = getattr(loader.collate_fn, 'func', loader.collate_fn)
    dataset = loader.dataset
    while isinstance(dataset, Subset):  # it passes a whole batch on
        dataset = dataset.dataset
    stock = function in (default_collate, pseudo_collate)
    if stock and getattr(dataset, 'whole_batches', False):
        raise ValueError(
            f'collate_fn={function.__name__!r} joins samples, but '
            f'{type(dataset).__name__} has whole_batches=True: set '
            "train_dataloader.collate_fn=dict(type='m2at_mm."
            "whole_batch_collate')"
        )


def _check_augmented_once(runner: Runner) -> None:
    preprocessor = getattr(_network(runner), 'data_preprocessor', None)
    every = inner_datasets(runner.train_dataloader.dataset)
    pipelines = [getattr(dataset, 'pipeline', None) for dataset in every]
    names = {name for one in pipelines for name in _transforms(one)}
    twice = names & {'RandomCrop', 'RandomResizedCrop', 'RandomFlip'}
    if twice and getattr(preprocessor, 'augment', None) is not None:
        raise ValueError(
            f'the training pipeline has {sorted(twice)}, and '
            'data_preprocessor.augment crops and flips once more: set '
            'data_preprocessor.augment=None, or take them out of the pipeline'
        )


def _transforms(step: Any) -> Iterator[str]:
    """The names of a transform and of those inside it, like RandomApply's."""
    yield type(step).__name__
    # A list is a branch of RandomChoice.
    branch = isinstance(step, (list, tuple))
    for one in step if branch else getattr(step, 'transforms', ()):
        yield from _transforms(one)


def _check_save_best(runner: Runner) -> None:
    attacks = getattr(_network(runner), 'eval_attacks', None)
    known = ['clean', 'worst', *(attacks or ())]
    for hook in runner.hooks if attacks is not None else ():
        for figure in getattr(hook, 'key_indicators', None) or []:
            prefix, _, name = figure.partition('/')
            if prefix == 'robust' and name not in known:
                raise ValueError(
                    f'save_best={figure!r} will never be reported: the '
                    f"model's eval_attacks give {known}. Choose one of these, "
                    'or add the attack to eval_attacks'
                )
