"""Measure the accuracy of a classifier, clean and under attack."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

from m2at_mm import cli
from m2at_mm.evaluation.presets import ATTACK_NAMES, preset_attacks
from m2at_mm.evaluation.results import (
    make_results,
    print_results,
    write_results,
)
from m2at_mm.recipes import apply_recipe, is_adversarial


def parse_args() -> argparse.Namespace:
    """Arguments of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--attacks',
        nargs='+',
        choices=ATTACK_NAMES,
        default=list(ATTACK_NAMES),
        help='what to evaluate under; all by default',
    )
    parser.add_argument(
        '--num-samples',
        type=int,
        metavar='N',
        help="use the first N of the dataset's test images; all by default",
    )
    parser.add_argument('--out', type=Path, help='JSON file for the results')
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> Config:
    """The config set up for the evaluation that was asked for.

    A config whose model is not adversarial, like a stock one of mmpretrain,
    is attacked under the threat model of the ``standard`` recipe.
    """
    cfg = cli.load_config(args.config)
    if not is_adversarial(cfg):
        cfg = apply_recipe(cfg, 'standard')
    cli.set_work_dir(cfg, args)
    cfg.load_from = args.checkpoint
    cfg.model.eval_attacks = preset_attacks(args.attacks)
    cfg.test_evaluator = dict(type='m2at_mm.RobustAccuracy')
    cfg.default_hooks.logger.interval = 1  # a batch is many gradient steps
    if cfg.get('randomness', {}).get('seed') is None:
        cfg.merge_from_dict(dict(randomness=dict(seed=0)))
    if args.num_samples is not None:
        if args.num_samples < 1:
            raise ValueError(
                f'--num-samples {args.num_samples} must be at least 1'
            )
        cfg.test_dataloader.dataset.indices = args.num_samples
    cli.merge_common_options(cfg, args)
    return cfg


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    runner = cli.build_runner(load_config(args), args)
    metrics = runner.test()
    model = runner.model
    if is_model_wrapper(model):
        model = model.module
    results = make_results(
        metrics, len(runner.test_dataloader.dataset), model.threat_model
    )
    if is_main_process():
        print_results(results)
        if args.out is not None:
            write_results(results, args.out)


if __name__ == '__main__':
    main()
