"""What the command-line tools share: options, start, and end by an error."""

import argparse
import logging
import os.path as osp
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger

from m2at_mm.recipes import (
    apply_recipe,
    is_adversarial,
    with_named_recipe,
)
from m2at_mm.recipes.apply import drop_switched_off
from m2at_mm.registry import type_name
from m2at_mm.runner.start import build_runner as build_runner
from m2at_mm.runner.start import build_trained_runner as build_trained_runner
from m2at_mm.runner.start import show_head as show_head

GOES_ON = 'Stopped at any time, the same command goes on where it was.'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class Parser(argparse.ArgumentParser):
    """A parser with ``--debug`` whose errors are one line, without usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        text = 'show the traceback of an error'
        self.add_argument('--debug', action='store_true', help=text)

    def error(self, message: str) -> NoReturn:
        """End with the message."""
        self.exit(2, f'{self.prog}: error: {message} (--help: all options)\n')


def run(main: Callable[[], None]) -> None:
    """Run a script, which an error ends with a line instead of a traceback.

    The traceback is in the log file of a run, and shown with ``--debug``.
    """
    try:
        main()
    except Exception as error:
        if '--debug' in sys.argv:
            raise
        # An OSError has two arguments or more.
        told = [error] if isinstance(error, OSError) else error.args[:1]
        text = ' '.join(map(str, told)) or repr(error)
        if text.startswith('Caught '):  # in a data worker: its traceback
            text = text.rstrip().rpartition('\n')[2]
            text = text.removeprefix(f'{type(error).__name__}: ')
        log = _log_traceback()
        where = f'traceback: {log}' if log else '--debug shows the traceback'
        what = f'{Path(sys.argv[0]).name}: {type(error).__name__}'
        sys.exit(f'{what}: {" ".join(text.split())}\n({where})')


def _log_traceback() -> str | None:
    logger = MMLogger.get_current_instance()
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            text, level = traceback.format_exc(), logging.ERROR
            place = (logger.name, level, __file__, 0)
            handler.handle(logging.LogRecord(*place, text, None, None))
            return handler.baseFilename
    return None


def add_common_arguments(parser: Parser, config: str | None = None) -> None:
    """Add the config, which may have a default, and mmpretrain's options."""
    add = parser.add_argument
    text = "a config file, or mmpretrain::FOLDER/NAME.py for mmpretrain's"
    add('config', nargs='?' if config else None, default=config, help=text)
    add('--work-dir', help='folder for logs and checkpoints')
    text = 'override settings of the config, like model.method.scale=1.5 '
    text += 'train_cfg.max_epochs=30'
    how: Any = dict(nargs='+', action=_Options, metavar='KEY=VALUE')
    add('--cfg-options', **how, help=text)
    text = 'disable pin_memory in dataloaders'
    add('--no-pin-memory', action='store_true', help=text)
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    text = 'pytorch when started by torchrun'
    add('--launcher', choices=launchers, default='none', help=text)
    add('--local_rank', '--local-rank', type=int, default=0)


class _Options(DictAction):
    """MMEngine's action, with a clear error for a word without a value."""

    def __call__(self, *args: Any) -> None:
        for word in args[2]:
            if '=' not in word:
                text = f'{word!r} has no value: write KEY=VALUE'
                raise argparse.ArgumentError(self, text)
        super().__call__(*args)


def load_config(name: str) -> Config:
    """Load a config file, or ``PACKAGE::PATH`` of an OpenMMLab package.

    A recipe that it names is applied.

    Raises:
        FileNotFoundError: There is no such config.
    """
    if '::' not in name:
        return with_named_recipe(Config.fromfile(name))
    try:  # MMEngine reads it only as a base of another config
        cfg = Config.fromstring(f'_base_ = [{name!r}]', file_format='.py')
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'there is no config {name}: give PACKAGE::PATH with the path '
            'inside the configs of the installed package, e.g. '
            'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
        ) from error
    # The runner names its copy of the config after the file.
    path = name.split('::')[-1]
    return Config(cfg.to_dict(), cfg_text=cfg.text, filename=path)


def load_adversarial_config(name: str, recipe: str = 'standard') -> Config:
    """Load a config; a stock one is attacked under a recipe's threat model."""
    cfg = load_config(name)
    return cfg if is_adversarial(cfg) else apply_recipe(cfg, recipe)


def model_config(cfg: Config) -> ConfigDict:
    """The model's config, with the top-level preprocessor in it."""
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg.model


def set_work_dir(cfg: Config, args: Namespace, suffix: str = '') -> None:
    """Set the work dir: the command line's, the config's, or by its name."""
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = Path(args.config.split('::')[-1]).stem
        cfg.work_dir = osp.join('work_dirs', name + suffix)


def keep_scalars(cfg: Config) -> None:
    """Let the visualizer write the file that reports read, too."""
    visualizer = cfg.get('visualizer')
    if visualizer is None:
        return  # MMEngine's own has it
    backends = visualizer.get('vis_backends') or []
    types = [type_name(one['type']) for one in backends if 'type' in one]
    if 'LocalVisBackend' not in types:
        visualizer.vis_backends = [*backends, dict(type='LocalVisBackend')]


def use_amp(cfg: Config) -> None:
    """Switch a config, all else merged, to automatic mixed precision.

    float16 by default. With ``optim_wrapper.dtype='bfloat16'``, which has the
    range of float32, the loss is not scaled: the host need not wait.

    Raises:
        ValueError: The config has a wrapper that is neither of MMEngine's.
    """
    wrapper = cfg.optim_wrapper
    stock = type_name(wrapper.get('type', 'OptimWrapper'))
    if stock not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(
            f'--amp would replace the optim_wrapper {stock!r}: set mixed '
            'precision in the config instead'
        )
    wrapper.type = 'AmpOptimWrapper'
    bfloat16 = str(wrapper.get('dtype')).endswith('bfloat16')
    scale = dict(enabled=False) if bfloat16 else 'dynamic'
    wrapper.setdefault('loss_scale', scale)


def merge_common_options(cfg: Config, args: Namespace) -> None:
    """Merge the command line, and mmpretrain's defaults for dataloaders."""
    cfg.launcher = args.launcher
    cfg.merge_from_dict(args.cfg_options or {})
    drop_switched_off(cfg)
    stop_workers = getattr(args, 'no_persistent_workers', False)
    for loader in filter(None, map(cfg.get, LOADERS)):
        loader.setdefault('pin_memory', get_device() != 'cpu')
        loader.setdefault('persistent_workers', True)
        loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        # A base inside mmpretrain marks it, and MMEngine passes the mark on
        # to the function.
        if isinstance(loader.collate_fn, dict):
            loader.collate_fn.pop('_scope_', None)
        if args.no_pin_memory:
            loader.pin_memory = False
        if stop_workers or not loader.get('num_workers'):
            loader.persistent_workers = False
