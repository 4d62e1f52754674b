"""Methods trained for the same time each, then evaluated.

python docs/results/gpu/methods.py --out methods.json

A method that the file holds already is not trained again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from m2at_mm import cli
from m2at_mm.datasets import CIFAR10
from m2at_mm.files import write_whole

sys.path.append(str(Path(__file__).resolve().parents[3] / 'tools'))
from benchmarking.timing import now

#: By name, the config and what differs from it.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    'pgd-at': ('pgd-at_resnet18_cifar10', {}),
    # The config's own when it was first measured.
    'm2at': (
        'm2at_resnet18_cifar10',
        {
            'model.method.scale': 1.5,
            'model.method.perturbed_label': 0.7,
            'model.method.consistency': 0.0,
        },
    ),
    'trades': ('trades_resnet18_cifar10', {}),
    'm2at, scale 2, consistency 6': ('m2at_resnet18_cifar10', {}),
    'avmixup': ('avmixup_resnet18_cifar10', {}),
}
ATTACKS = ['pgd20', 'apgd-ce', 'apgd-t']


def parse_args() -> argparse.Namespace:
    """For how long, and on what."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--seconds', type=float, default=36.0, help='of training, per method'
    )
    parser.add_argument('--methods', nargs='+', default=list(METHODS))
    parser.add_argument('--batch', type=int, default=512)
    parser.add_argument('--num-samples', type=int, default=1000)
    parser.add_argument('--attacks', nargs='+', default=ATTACKS)
    parser.add_argument('--cfg-options', nargs='+', action=cli._Options)
    return parser.parse_args()


def load_config(name: str, args: argparse.Namespace) -> Config:
    """PGD-5, SGD with a cycle of one, averaged weights, half precision."""
    config, options = METHODS[name]
    cfg = Config.fromfile(f'configs/{config}.py')
    cfg.merge_from_dict(
        {
            'train_dataloader.batch_size': args.batch,
            'train_dataloader.sampler.type': 'InfiniteSampler',
            'train_dataloader.drop_last': True,
            'model.train_attack.steps': 5,
            'model.train_attack.step_size': '3/255',
            'randomness.seed': 0,
            **options,
            **(args.cfg_options or {}),
        }
    )
    if torch.cuda.is_available():
        cfg.optim_wrapper.dtype = 'bfloat16'
        cli.use_amp(cfg)
    cfg.custom_hooks = [
        # As the configs' own, which steps aside, but for its warm-up: all
        # methods of the file are trained with this one.
        dict(type='EMAHook', momentum=0.005, update_buffers=True)
    ]
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(
        by_epoch=False, interval=10**9, save_best=None, published_keys=None
    )
    return cfg


def seconds_per_iteration(cfg: Config, folder: str) -> float:
    """Of the training without its hooks, the median of a few."""
    cfg.train_cfg = dict(by_epoch=False, max_iters=1)
    cfg.param_scheduler, cfg.work_dir = None, f'{folder}/pace'
    runner: Any = Runner.from_cfg(cfg)
    runner.train_loop  # noqa: B018 (built by being asked for)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    batches, times = iter(runner.train_dataloader), []
    runner.model.train()
    for _ in range(12):
        since = now()
        runner.model.train_step(next(batches), runner.optim_wrapper)
        times.append(now() - since)
    return median(times[4:])


def train(cfg: Config, num: int, folder: str) -> dict[str, Any]:
    """Train by a schedule of one cycle."""
    cfg.train_cfg = dict(by_epoch=False, max_iters=num)
    cfg.param_scheduler = dict(
        type='OneCycleLR', by_epoch=False, eta_max=0.2, total_steps=num
    )
    cfg.work_dir = f'{folder}/train'
    runner = Runner.from_cfg(cfg)
    images = len(runner.train_dataloader.dataset)
    since = now()
    runner.train()
    seconds = now() - since
    batch = cfg.train_dataloader.batch_size
    return dict(
        iterations=num,
        epochs=num * batch / images,
        seconds=seconds,
        images_per_second=num * batch / seconds,
    )


def evaluate(
    cfg: Config, args: argparse.Namespace, folder: str
) -> dict[str, Any]:
    """The averaged weights, which are what the checkpoint holds."""
    out = Path(folder, 'results.json')
    cfg.load_from = Path(folder, 'train', 'last_checkpoint').read_text()
    cfg.work_dir, cfg.custom_hooks = f'{folder}/test', []
    cfg.test_cfg = dict(
        type='m2at_mm.RobustnessTestLoop',
        attacks=['clean', *args.attacks],
        num_samples=args.num_samples,
        batch_size=1000,
        out=str(out),
    )
    Runner.from_cfg(cfg).test()
    results: dict[str, Any] = json.loads(out.read_text(encoding='utf-8'))
    return results


def read_once() -> None:
    """Every runner gets the images that the first one read."""
    read, images = CIFAR10.load_data_list, {}

    def remembered(dataset: CIFAR10) -> Any:
        key = (dataset.split, repr(dataset._indices))
        if key not in images:
            images[key] = read(dataset)
        return list(images[key])

    CIFAR10.load_data_list = remembered  # type: ignore[method-assign]


def main() -> None:
    """Train and evaluate, and write after each method."""
    args = parse_args()
    init_default_scope('mmpretrain')
    read_once()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.methods:
        if name in found:
            continue
        since = time.monotonic()
        torch.compiler.reset()  # it would compile no more than eight models
        with TemporaryDirectory() as folder:
            pace = seconds_per_iteration(load_config(name, args), folder)
            num = max(4, int(args.seconds / pace))
            trained = train(load_config(name, args), num, folder)
            results = evaluate(load_config(name, args), args, folder)
        whole = time.monotonic() - since
        found[name] = dict(
            training=trained, results=results, whole_seconds=whole
        )
        text = json.dumps(found, indent=1) + '\n'
        write_whole(args.out, lambda path, text=text: path.write_text(text))
        print(
            f'{name}: {trained["epochs"]:.2f} epochs, clean '
            f'{results["clean"]:.1f}, {results["attacks"]}, worst case '
            f'{results["worst_case"]:.1f}, {whole:.0f} s in all',
            flush=True,
        )


if __name__ == '__main__':
    main()
