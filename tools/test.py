"""Measure the accuracy of a classifier, clean and under attack."""

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config

from m2at_mm import cli
from m2at_mm.evaluation.named_attacks import (
    ATTACK_NAMES,
    DEFAULT_ATTACKS,
    check_attack_names,
)
from m2at_mm.evaluation.samples import SUBSETS


def parse_args() -> argparse.Namespace:
    """Arguments of the evaluation."""
    parser = cli.Parser(description=__doc__, epilog=cli.GOES_ON)
    cli.add_common_arguments(parser)
    add = parser.add_argument
    add('checkpoint', help='checkpoint file')
    text = f'what to evaluate under: {", ".join(ATTACK_NAMES)}; '
    text += 'torchattacks.CLASS or foolbox.CLASS; '
    text += f'{" ".join(DEFAULT_ATTACKS)} by default'
    how: Any = dict(nargs='+', metavar='NAME', default=list(DEFAULT_ATTACKS))
    add('--attacks', **how, help=text)
    text = "radii, like 4/255 8/255; the config's by default"
    add('--eps', nargs='+', metavar='E', help=text)
    text = "norm of the radii; the config's by default"
    add('--norm', choices=['linf', 'l2'], help=text)
    text = 'use N of the test images, spread over the classes and the same '
    text += 'for every network; all by default'
    add('--num-samples', type=int, metavar='N', help=text)
    text = 'which N images: spread, or first, the first ones of the dataset, '
    text += "as in AutoAttack's tables on CIFAR (default: spread)"
    add('--subset', choices=SUBSETS, default='spread', help=text)
    text = 'images attacked at a time, 250 by default as in AutoAttack; '
    text += 'halved where it does not fit into GPU memory'
    add('--batch-size', type=int, default=250, metavar='N', help=text)
    add('--seed', type=int, default=0, help='seed of all random draws')
    text = "another network, whose adversarial images the attack 'transfer' "
    network = ('CONFIG', 'CHECKPOINT')
    add('--transfer', nargs=2, metavar=network, help=f'{text}tries')
    text = 'keep the adversarial images, as float32 in .npz files'
    add('--save-adversarial', metavar='DIR', help=text)
    text = 'JSON file for the results; by default results.json in the folder '
    text += 'of the training that the checkpoint is in, else in the work dir'
    add('--out', help=text)
    args = parser.parse_args()
    try:
        check_attack_names(args.attacks, args.transfer is not None)
    except ValueError as error:
        parser.error(f'argument --attacks: {error}')
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config set up for the evaluation that was asked for."""
    cfg = cli.load_adversarial_config(args.config)
    folder = Path(args.checkpoint).parent
    if args.work_dir is None and (folder / 'last_checkpoint').is_file():
        # Its results, but a config of its own.
        args.work_dir = str(folder / 'test')
        args.out = args.out or str(folder / 'results.json')
    cli.set_work_dir(cfg, args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    asked = ('attacks', 'eps', 'norm', 'num_samples', 'subset', 'batch_size')
    cfg.test_cfg = dict(
        {name: getattr(args, name) for name in (*asked, 'seed', 'out')},
        type='m2at_mm.RobustnessTestLoop',
        transfer=None,
        adversarial_dir=args.save_adversarial,
    )
    if args.transfer is not None:
        config, checkpoint = args.transfer
        model = cli.model_config(cli.load_adversarial_config(config))
        cfg.test_cfg.transfer = dict(surrogate=model, checkpoint=checkpoint)
    # A process may wait for hours for another's last batch.
    cfg.merge_from_dict({'env_cfg.dist_cfg.timeout': 7 * 24 * 3600})
    cli.merge_common_options(cfg, args)
    return cfg


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    runner = cli.build_runner(load_config(args), args)
    told = dict(checkpoint=args.checkpoint, attacks=' '.join(args.attacks))
    told.update(dict(results=args.out) if args.out else {})
    cli.show_head(runner, 'evaluation', 'test', **told)
    runner.test()


if __name__ == '__main__':
    cli.run(main)
