"""Draw what the attack and the method do to test images."""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config

from m2at_mm import cli
from m2at_mm import visualization as vis
from m2at_mm.checks import check_count
from m2at_mm.evaluation.samples import Samples

#: What a picture shows, and how it is drawn.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Figure]]] = {
    'rows': (vis.TrainingImages.of, vis.draw_training_images),
    'steps': (vis.AttackSteps.of, vis.draw_attack_steps),
    'masks': (vis.MaskKinds.of, vis.draw_mask_kinds),
    'options': (vis.MethodOptions.of, vis.draw_method_options),
}


def parse_args() -> argparse.Namespace:
    """Arguments of the picture."""
    parser = cli.Parser(description=__doc__)
    cli.add_common_arguments(parser)
    add = parser.add_argument
    text = 'checkpoint file; without one the network is untrained'
    add('checkpoint', nargs='?', help=text)
    text = 'rows: from the clean to the training image (default); steps: the '
    text += 'path of the attack; masks: each kind of mask; options: what '
    text += "M2AT's options do"
    add('--show', choices=list(KINDS), default='rows', help=text)
    text = 'the picture, e.g. m2at.png; steps.gif for an animation of steps'
    add('--out', type=Path, required=True, help=text)
    text = 'N test images, spread over the classes (default: 6)'
    add('--num-images', type=int, default=6, metavar='N', help=text)
    text = 'seed of the random start and the masks (default: 0)'
    add('--seed', type=int, default=0, help=text)
    return parser.parse_args()


def load_config(args: argparse.Namespace, log_dir: str) -> Config:
    """The config set up for one batch of test images."""
    check_count('--num-images', args.num_images)
    cfg = cli.load_adversarial_config(args.config, 'm2at')
    cfg.work_dir = args.work_dir or log_dir
    cfg.log_level = 'WARNING'  # a picture needs no log of hooks
    cfg.load_from, cfg.resume = args.checkpoint, False
    own = {'randomness.seed': args.seed, 'test_dataloader.num_workers': 0}
    cfg.merge_from_dict(own)
    cli.merge_common_options(cfg, args)
    return cfg


def check_out(args: argparse.Namespace) -> None:
    """Refuse a file that the picture cannot be written to."""
    kind = args.out.suffix.lower().lstrip('.')
    if kind == 'gif' and args.show != 'steps':
        raise ValueError(
            f'--out {args.out} is an animation, but --show {args.show} is one '
            'picture: give a name that ends in .png, or --show steps'
        )
    known = sorted({*Figure().canvas.get_supported_filetypes(), 'gif'})
    if kind not in known:
        raise ValueError(
            f'--out {args.out} is of no known kind: give a name that ends in '
            f'one of {known}'
        )


def main() -> None:
    """Draw as the command line says."""
    args = parse_args()
    check_out(args)
    with TemporaryDirectory() as log_dir:
        runner = cli.build_trained_runner(load_config(args, log_dir), args)
    model = runner.model.eval()
    loader = runner.test_dataloader
    prepare = model.data_preprocessor
    samples = Samples(loader.dataset, prepare, loader.collate_fn)
    ((images, labels),) = samples.batches([samples.spread(args.num_images)])
    look, draw = KINDS[args.show]
    found = look(model, images, labels)
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
    note = '' if args.checkpoint else 'untrained network'
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix.lower() == '.gif':
        frames = vis.draw_step_frames(found, classes, note)
        vis.save_animation(frames, args.out)
    else:
        draw(found, classes, note).savefig(args.out, dpi=110)
    print(f'picture: {args.out.resolve()}')


if __name__ == '__main__':
    cli.run(main)
