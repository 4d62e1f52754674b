"""What the command-line tools share: options and their meaning."""

from __future__ import annotations

import argparse
import os
import os.path as osp
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from m2at_mm.recipes import apply_recipe, is_adversarial
from m2at_mm.registry import type_name
from m2at_mm.runner.process_group import connect_processes
from m2at_mm.version import __version__

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def add_common_arguments(
    parser: argparse.ArgumentParser, config: str | None = None
) -> None:
    """The config, and mmpretrain's options that every tool has.

    Args:
        parser (ArgumentParser): Of a tool.
        config (str, optional): The config where none is given. Defaults to
            None: it must be.
    """
    parser.add_argument(
        'config',
        nargs=None if config is None else '?',
        default=config,
        help='a config file, or mmpretrain::FOLDER/NAME.py for one of '
        "mmpretrain's",
    )
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='override settings of the config, like '
        'model.method.scale=2.0 train_cfg.max_epochs=30',
    )
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='disable pin_memory in dataloaders',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='pytorch when started by torchrun',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


class _Options(DictAction):
    """MMEngine's action, with a clear error for a word without a value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for word in values:
            if '=' not in word:
                raise argparse.ArgumentError(
                    self, f'{word!r} has no value: write KEY=VALUE'
                )
        super().__call__(parser, namespace, values, option_string)


def load_config(name: str) -> Config:
    """Load a config file, also one inside an installed OpenMMLab package.

    MMEngine reads ``mmpretrain::FOLDER/NAME.py`` only as a base of another
    config, so here it becomes the base of an empty one.

    Args:
        name (str): Path of a file, or ``PACKAGE::PATH`` in its configs.

    Raises:
        FileNotFoundError: There is no such config.
    """
    if '::' not in name:
        return Config.fromfile(name)
    try:
        cfg = Config.fromstring(f'_base_ = [{name!r}]', file_format='.py')
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'there is no config {name}: give PACKAGE::PATH with the path '
            'inside the configs of the installed package, e.g. '
            'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
        ) from error
    # The runner names its copy of the config after the file.
    return Config(
        cfg.to_dict(), cfg_text=cfg.text, filename=name.split('::')[-1]
    )


def load_adversarial_config(name: str, recipe: str = 'standard') -> Config:
    """Like :func:`load_config`, with a recipe where it is not adversarial.

    So a stock config of mmpretrain is attacked under the recipe's threat
    model.
    """
    cfg = load_config(name)
    return cfg if is_adversarial(cfg) else apply_recipe(cfg, recipe)


def model_config(cfg: Config) -> ConfigDict:
    """The model's config, with the top-level preprocessor in it."""
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg.model


def set_work_dir(
    cfg: Config, args: argparse.Namespace, suffix: str = ''
) -> None:
    """The command line goes before the config, and that before its name."""
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = Path(args.config.split('::')[-1]).stem
        cfg.work_dir = osp.join('work_dirs', name + suffix)


def use_amp(cfg: Config) -> None:
    """Automatic mixed precision, where nothing else gets lost by it.

    float16 by default, as in mmpretrain. With
    ``optim_wrapper.dtype='bfloat16'``, whose range is that of float32, the
    loss is not scaled: after each scaled iteration the host reads whether a
    gradient overflowed, for which it waits for the GPU.

    Args:
        cfg (Config): Its ``optim_wrapper`` changes. All other options are
            merged already.

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
    scaled = not str(wrapper.get('dtype')).endswith('bfloat16')
    wrapper.setdefault(
        'loss_scale', 'dynamic' if scaled else dict(enabled=False)
    )


def merge_common_options(cfg: Config, args: argparse.Namespace) -> None:
    """Merge what :func:`add_common_arguments` read, last of all."""
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    for field in LOADERS:
        if cfg.get(field) is not None:
            cfg[field] = _with_defaults(cfg[field], args)


def _with_defaults(loader: ConfigDict, args: argparse.Namespace) -> ConfigDict:
    """Mmpretrain's defaults for what a dataloader's config leaves open."""
    filled = ConfigDict(
        pin_memory=True,
        persistent_workers=True,
        collate_fn=dict(type='default_collate'),
    )
    filled.update(loader)
    # A base inside mmpretrain marks it, and MMEngine passes the mark on to
    # the function.
    if isinstance(filled.collate_fn, dict):
        filled.collate_fn.pop('_scope_', None)
    if args.no_pin_memory:
        filled.pin_memory = False
    stop_workers = getattr(args, 'no_persistent_workers', False)
    if stop_workers or filled.get('num_workers', 0) == 0:
        filled.persistent_workers = False
    return filled


def build_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """The config's runner, with its processes connected."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    distribution = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    connect_processes(args.launcher, distribution)
    if (cfg.get('randomness') or {}).get('deterministic'):
        # Without it PyTorch refuses products on a GPU, which begins to use
        # the setting with its first one.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    runner = build(cfg)
    runner.logger.info(describe_origin())
    return runner


def build_trained_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """The config's runner, its network as ``load_from`` left it.

    Args:
        cfg (Config): With ``load_from``, or the network is untrained.
        args (Namespace): See :func:`build_runner`.

    Returns:
        Runner: Not yet training or testing.
    """
    runner = build_runner(cfg, args)
    runner.call_hook('before_run')  # where EMAHook makes its model
    runner.load_or_resume()
    return runner


def describe_origin() -> str:
    """What MMEngine's log lacks: this package's version, and the command."""
    lines = [
        'Origin:',
        f'    m2at_mm: {__version__}',
        f'    commit: {_commit()}',
        f'    command: {shlex.join(["python", *sys.argv])}',
    ]
    return '\n'.join(lines)


def _commit() -> str:
    """The commit of the checkout that the package is in, if it is in one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / '.git').exists():
        return 'none, the package is installed'
    try:
        return subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown, git gives none'
