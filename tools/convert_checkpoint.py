"""Import robust checkpoints of other projects, and export ours for others."""

import argparse
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from m2at_mm import cli, exchange
from m2at_mm.exchange import CLAIM_FIELDS, PlainClassifier
from m2at_mm.files import write_text, write_whole
from m2at_mm.registry import MODELS

_EXPORTS = {
    'state-dict': exchange.export_state_dict,
    'program': exchange.export_program,
    'onnx': exchange.export_onnx,
}
# mmpretrain's dataset config by number of classes.
_DATASETS = {10: 'cifar10_bs16', 100: 'cifar100_bs16', 1000: 'imagenet_bs32'}
_HEADER = """# The model of {source}, as tools/convert_checkpoint.py found it.
_base_ = [
    'mmpretrain::_base_/datasets/{dataset}.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

"""


def parse_args() -> argparse.Namespace:
    """Arguments of the three commands."""
    parser = cli.Parser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    text = 'a checkpoint of another project into mmpretrain names, with the '
    text += 'config that belongs to it'
    bring = commands.add_parser('import', help=text)
    bring.add_argument('source', type=Path, help='checkpoint file')
    text = '.pth file; the config goes beside it, as .py'
    bring.add_argument('out', type=Path, help=text)
    give = commands.add_parser('export', help='a model of images in [0, 1]')
    cli.add_common_arguments(give)
    give.add_argument('checkpoint', help='checkpoint file')
    give.add_argument('out', type=Path, help='file to write')
    text = 'state-dict: weights, mean and std; program: torch.export, .pt2; '
    text += 'onnx: .onnx, compared by onnxruntime'
    give.add_argument('--format', choices=_EXPORTS, required=True, help=text)
    size = 'height and width of the images, one number if they are equal'
    give.add_argument('--size', type=int, nargs='+', default=[32], help=size)
    channels = 'channels of the images'
    give.add_argument('--channels', type=int, default=3, help=channels)
    text = "results with AutoAttack in RobustBench's form"
    claim = commands.add_parser('claim', help=text)
    claim.add_argument('results', type=Path, help='results.json')
    claim.add_argument('out', type=Path, help='JSON file to write')
    claim.add_argument('--dataset', default='cifar10')
    for name in CLAIM_FIELDS:
        claim.add_argument(f'--{name}', default='')
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f'{args.out} exists: give another name or remove it')
    return args


def bring_in(args: argparse.Namespace) -> None:
    """The command ``import``."""
    config = args.out.with_suffix('.py')
    if config.exists():
        told = f'{config} exists: give another name for the checkpoint'
        raise FileExistsError(told)
    imported = exchange.import_checkpoint(args.source)
    dataset = _DATASETS.get(imported.num_classes)
    if dataset is None or imported.num_channels != 3:
        raise ValueError(
            f'{args.source} has {imported.num_classes} classes and images of '
            f'{imported.num_channels} channels, for which no dataset config '
            f'is known, only for {list(_DATASETS)} classes and 3 channels: '
            'use m2at_mm.exchange.import_checkpoint and write a config'
        )
    wrapper = dict(type='m2at_mm.AdversarialClassifier')
    model = MODELS.build(dict(wrapper, classifier=imported.classifier))
    model.load_state_dict(imported.state_dict)  # every key, every shape
    preprocessor = dict(
        num_classes=imported.num_classes,
        to_rgb=False,
        # Without a normalisation the network sees images in [0, 1].
        mean=imported.mean or [0.0] * 3,
        std=imported.std or [255.0] * 3,
    )
    settings = dict(model=imported.classifier, data_preprocessor=preprocessor)
    header = _HEADER.format(source=args.source.name, dataset=dataset)
    text = header + Config(settings).pretty_text
    content = dict(state_dict=imported.state_dict, meta={})
    write_whole(args.out, lambda file: torch.save(content, file))
    write_text(config, text)
    print(f'checkpoint: {args.out}, config: {config}')


def give_out(args: argparse.Namespace) -> None:
    """The command ``export``."""
    cfg = cli.load_adversarial_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    wrapper = MODELS.build(cli.model_config(cfg))
    load_checkpoint(wrapper, args.checkpoint, map_location='cpu', strict=True)
    draw = torch.Generator().manual_seed(0)
    shape = (4, args.channels, args.size[0], args.size[-1])
    images = torch.rand(shape, generator=draw)
    _EXPORTS[args.format](PlainClassifier.of(wrapper), images, args.out)
    print(f'{args.format}: {args.out}')


def write_claim(args: argparse.Namespace) -> None:
    """The command ``claim``."""
    about = {name: getattr(args, name) for name in CLAIM_FIELDS}
    results = json.loads(args.results.read_text(encoding='utf-8'))
    claim = exchange.make_claim(results, args.dataset, **about)
    write_text(args.out, json.dumps(claim, indent=2) + '\n')
    print(f'claim: {args.out}')


def main() -> None:
    """Run the command."""
    args = parse_args()
    commands = {'import': bring_in, 'export': give_out, 'claim': write_claim}
    commands[args.command](args)


if __name__ == '__main__':
    cli.run(main)
