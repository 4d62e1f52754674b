"""Train a classifier adversarially."""

import argparse

from mmengine.config import Config

from m2at_mm import cli
from m2at_mm.files import only_run_in
from m2at_mm.recipes import apply_recipe, is_adversarial, recipe_names
from m2at_mm.runner.process_group import resume_after_restart
from m2at_mm.runner.train_loops import make_epochs_resumable


def parse_args() -> argparse.Namespace:
    """mmpretrain's arguments with their meaning, and ``--recipe``."""
    parser = cli.Parser(description=__doc__)
    cli.add_common_arguments(parser)
    add = parser.add_argument
    text = 'make a classification config of mmpretrain adversarial'
    add('--recipe', choices=recipe_names(), help=text)
    text = 'go on from a checkpoint; without one, from the latest of the work '
    text += 'dir'
    add('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=text)
    flags = {
        'amp': 'automatic mixed precision',
        'no-validate': 'do not validate during training',
        'auto-scale-lr': 'scale the learning rate by actual over base batch '
        'size',
        'no-persistent-workers': 'disable persistent_workers in dataloaders',
    }
    for name, text in flags.items():
        add(f'--{name}', action='store_true', help=text)
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> Config:
    """The config with the recipe and the command line merged in."""
    cfg = cli.load_config(args.config)
    if args.recipe is not None:
        cfg = apply_recipe(cfg, args.recipe)
    cli.set_work_dir(cfg, args, f'_{args.recipe}' if args.recipe else '')
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        # There is no figure to choose the best checkpoint by.
        cfg.default_hooks.checkpoint.pop('save_best', None)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        cfg.auto_scale_lr.enable = True
    cli.merge_common_options(cfg, args)
    if args.amp:
        cli.use_amp(cfg)
    cli.keep_scalars(cfg)
    make_epochs_resumable(cfg)
    resume_after_restart(cfg)
    return cfg


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    cfg = load_config(args)
    with only_run_in(cfg.work_dir):
        runner = cli.build_runner(cfg, args)
        if is_adversarial(cfg):
            attack = cfg.model.get('train_attack', 'of the method')
            told = dict(attack=attack, method=cfg.model.get('method', 'M2AT'))
        else:
            text = 'none, this is no adversarial training: --recipe m2at is'
            told = dict(attack=text)
        cli.show_head(runner, 'training', 'train', **told)
        runner.train()


if __name__ == '__main__':
    cli.run(main)
