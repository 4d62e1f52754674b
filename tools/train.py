"""Train a classifier adversarially."""

from __future__ import annotations

import argparse
import os
import os.path as osp
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from m2at_mm.compat import init_cpu_process_group
from m2at_mm.recipes import apply_recipe, recipe_names


def parse_args() -> argparse.Namespace:
    """mmpretrain's arguments with their meaning, and ``--recipe``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        help='a config file, or mmpretrain::FOLDER/NAME.py for one of '
        "mmpretrain's",
    )
    parser.add_argument(
        '--recipe',
        help='make the config adversarial: one of '
        + ', '.join(recipe_names()),
    )
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without one, from the latest of the '
        'work dir',
    )
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision'
    )
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not validate during training',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by actual over base batch size',
    )
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='disable pin_memory in dataloaders',
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='disable persistent_workers in dataloaders',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, like '
        'model.method.scale=2.0 train_cfg.max_epochs=30',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='pytorch when started by torchrun',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with the recipe and the command line merged in."""
    cfg = Config.fromfile(args.config)
    if args.recipe is not None:
        cfg = apply_recipe(cfg, args.recipe)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = Path(args.config.split('::')[-1]).stem
        suffix = f'_{args.recipe}' if args.recipe else ''
        cfg.work_dir = osp.join('work_dirs', name + suffix)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        # There is no figure to choose the best checkpoint by.
        cfg.default_hooks.checkpoint.pop('save_best', None)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        cfg.auto_scale_lr.enable = True
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    set_dataloader_defaults(cfg, args)
    return cfg


def set_dataloader_defaults(cfg: Config, args: argparse.Namespace) -> None:
    """mmpretrain's defaults for what a dataloader's config leaves open."""
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(field) is None:
            continue
        loader = ConfigDict(
            pin_memory=True,
            persistent_workers=True,
            collate_fn=dict(type='default_collate'),
        )
        loader.update(cfg[field])
        if args.no_pin_memory:
            loader.pin_memory = False
        if args.no_persistent_workers or loader.get('num_workers') == 0:
            loader.persistent_workers = False
        cfg[field] = loader


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    cfg = load_config(args)
    init_cpu_process_group(args.launcher)
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    runner.train()


if __name__ == '__main__':
    main()
