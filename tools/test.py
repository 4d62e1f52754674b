"""Measure the accuracy of a classifier, clean and under attack."""

from __future__ import annotations

import argparse
from typing import Any

from mmengine.config import Config

from m2at_mm import cli
from m2at_mm.evaluation.named_attacks import ATTACK_NAMES, DEFAULT_ATTACKS
from m2at_mm.evaluation.samples import SUBSETS

_SECONDS_TO_WAIT = 7 * 24 * 3600


_OPTIONS: dict[str, dict[str, Any]] = {
    'attacks': dict(
        nargs='+',
        choices=ATTACK_NAMES,
        metavar='NAME',
        default=list(DEFAULT_ATTACKS),
        help=f'what to evaluate under: {", ".join(ATTACK_NAMES)}; '
        f'{" ".join(DEFAULT_ATTACKS)} by default',
    ),
    'eps': dict(
        nargs='+',
        metavar='E',
        help="radii, like 4/255 8/255; the config's by default",
    ),
    'norm': dict(
        choices=['linf', 'l2'],
        help="norm of the radii; the config's by default",
    ),
    'num-samples': dict(
        type=int,
        metavar='N',
        help='use N of the test images, spread over the classes and the same '
        'for every network; all by default',
    ),
    'subset': dict(
        choices=SUBSETS,
        default='spread',
        help='which N images: spread, or first, the first ones of the '
        "dataset, as in AutoAttack's tables on CIFAR (default: spread)",
    ),
    'batch-size': dict(
        type=int,
        default=250,
        metavar='N',
        help='images attacked at a time, 250 by default as in AutoAttack; '
        'halved where it does not fit into GPU memory',
    ),
    'seed': dict(type=int, default=0, help='seed of all random draws'),
    'transfer': dict(
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help="another network, whose adversarial images the attack 'transfer' "
        'tries',
    ),
    'save-adversarial': dict(
        metavar='DIR',
        help='keep the adversarial images, as float32 in .npz files',
    ),
    'out': dict(
        help='JSON file for the results; results.json in the work dir by '
        'default',
    ),
}


def parse_args() -> argparse.Namespace:
    """Arguments of the evaluation."""
    parser = cli.Parser(
        description=__doc__,
        epilog='Stopped at any time, the same command goes on where it was.',
    )
    cli.add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    for name, settings in _OPTIONS.items():
        parser.add_argument(f'--{name}', **settings)
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> Config:
    """The config set up for the evaluation that was asked for."""
    cfg = cli.load_adversarial_config(args.config)
    cli.set_work_dir(cfg, args)
    cfg.load_from = args.checkpoint
    asked = ('attacks', 'eps', 'norm', 'num_samples', 'subset', 'batch_size')
    cfg.test_cfg = dict(
        {name: getattr(args, name) for name in (*asked, 'seed', 'out')},
        type='m2at_mm.RobustnessTestLoop',
        transfer=_surrogate(args),
        adversarial_dir=args.save_adversarial,
    )
    # A process may wait for hours for another's last batch.
    cfg.merge_from_dict({'env_cfg.dist_cfg.timeout': _SECONDS_TO_WAIT})
    cli.merge_common_options(cfg, args)
    return cfg


def _surrogate(args: argparse.Namespace) -> Any:
    if args.transfer is None:
        return None
    config, checkpoint = args.transfer
    model = cli.model_config(cli.load_adversarial_config(config))
    return dict(surrogate=model, checkpoint=checkpoint)


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    runner = cli.build_runner(load_config(args), args)
    attacks = ' '.join(args.attacks)
    told = dict(checkpoint=args.checkpoint, attacks=attacks)
    cli.show_head(runner, 'evaluation', 'test', **told)
    runner.test()


if __name__ == '__main__':
    cli.run(main)
