"""Time training iterations beside what one would use instead."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import platform
import resource
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.runner import Runner
from rich.console import Console

import m2at_mm
from m2at_mm import cli
from m2at_mm.benchmark import (
    RIVALS,
    Interleaving,
    PartClock,
    flops_per_iteration,
    peak_flops,
    rivals_of,
    summarise,
    switches_of,
    time_all_reduce,
    time_validation,
    to_table,
)
from m2at_mm.benchmark.contestants import (
    Contestant,
    Limit,
    check_attack,
)
from m2at_mm.checks import check_count
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers.distributed import bare_model
from m2at_mm.recipes import config_root, recipe_names
from m2at_mm.registry import TASK_UTILS
from m2at_mm.runner.atomic_files import write_whole


def parse_args() -> argparse.Namespace:
    """Arguments of the benchmark."""
    parser = cli.Parser(
        description=__doc__,
        epilog='; '.join(f'{name}: {text}' for name, text in RIVALS.items()),
    )
    cli.add_common_arguments(
        parser, str(config_root() / 'pgd-at_resnet18_cifar10.py')
    )
    parser.add_argument(
        '--against',
        nargs='*',
        choices=list(RIVALS),
        default=None,
        help='what to time beside it; all that are installed by default',
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=recipe_names(),
        default=[],
        help="recipes whose method is timed, too, with the config's attack",
    )
    parser.add_argument(
        '--rounds', type=int, default=5, help='that are measured (default: 5)'
    )
    parser.add_argument(
        '--block',
        type=int,
        default=3,
        help='iterations of each in a round (default: 3)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='ours and the limit in bfloat16'
    )
    parser.add_argument(
        '--validation',
        metavar='CHECKPOINT',
        help='time the robust validation of a trained network in place of '
        'training iterations',
    )
    parser.add_argument(
        '--num-images',
        type=int,
        default=1000,
        metavar='N',
        help='that are validated (default: 1000)',
    )
    parser.add_argument('--out', type=Path, help='JSON file for the results')
    return parser.parse_args()


def load_config(args: argparse.Namespace, log_dir: str) -> Config:
    """The config without validation and checkpoints."""
    for name in ('rounds', 'block', 'num_images'):
        option = name.replace('_', '-')
        check_count(f'--{option}', getattr(args, name))
    if args.validation is not None and args.launcher != 'none':
        raise ValueError(
            f'--launcher {args.launcher} with --validation: it is timed in '
            'one process, leave the launcher out'
        )
    cfg = cli.load_adversarial_config(args.config, 'pgd-at')
    cli.merge_common_options(cfg, args)
    cfg.work_dir = args.work_dir or log_dir
    cfg.log_level = 'WARNING'
    if args.validation is not None:
        cfg.load_from = args.validation
        return cfg
    # Before the data are read.
    attack = cfg.model.get('train_attack')
    check_attack(attack and TASK_UTILS.build(attack))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.pop('overfitting', None)
    if args.amp:
        cfg.optim_wrapper.setdefault('dtype', 'bfloat16')
        cli.use_amp(cfg)
    return cfg


def check_rivals(names: Sequence[str] | None) -> list[str]:
    """Those asked for, or all that are installed."""
    installed = importlib.util.find_spec('torchattacks') is not None
    if names is None:
        return [n for n in RIVALS if installed or n != 'torchattacks']
    if 'torchattacks' in names and not installed:
        raise ImportError(
            '--against torchattacks needs a package: pip install '
            'torchattacks, or name others'
        )
    return list(names)


def train_until_finished(
    cfg: Config, args: argparse.Namespace, hook: Any
) -> Runner:
    """Train the config with a hook that ends it."""
    cfg = copy.deepcopy(cfg)
    cfg.experiment_name = type(hook).__name__
    runner = cli.build_runner(cfg, args)
    runner.register_hook(hook)
    try:
        runner.train()
    except hook.Finished:
        return runner
    raise ValueError(
        f'max_epochs={runner.max_epochs} of train_cfg ended before all was '
        'measured: raise it, or lower --rounds'
    )


def measure(args: argparse.Namespace, cfg: Config) -> dict[str, Any]:
    """All figures, as they are written to JSON."""
    names = check_rivals(args.against)
    rivals: dict[str, Contestant] = {}

    def get_rivals(runner: Runner) -> dict[str, Callable[[], None]]:
        rivals.update(rivals_of(names, runner))
        return {name: rival.iterate for name, rival in rivals.items()}

    contest = Interleaving(
        partial(switches_of, args.methods), get_rivals, args.rounds, args.block
    )
    runner = train_until_finished(cfg, args, contest)
    model = bare_model(runner.model)
    device = next(model.parameters()).device
    flops = None
    if isinstance(limit := rivals.get('limit'), Limit):
        flops = flops_per_iteration(limit)
    # Of all processes together; the floating-point operations are of one.
    batch_size = cfg.train_dataloader.batch_size * get_world_size()
    results = summarise(
        contest.times,
        batch_size,
        contest.peak_memory,
        flops,
        peak_flops(device) if args.amp else None,
    )
    if get_world_size() > 1:
        results['all_reduce'] = time_all_reduce(model, args.rounds)
    clock = PartClock(args.rounds * args.block)
    train_until_finished(cfg, args, clock)
    return dict(
        settings=settings_of(cfg, args, device),
        batch_size=batch_size,
        flops_per_iteration=flops,
        **results,
        parts={part: median(times) for part, times in clock.times.items()},
        waits={part: median(times) for part, times in clock.waits.items()},
    )


def measure_validation(
    args: argparse.Namespace, cfg: Config
) -> dict[str, Any]:
    """The figures of a robust validation."""
    runner = cli.build_trained_runner(cfg, args)
    loader = runner.test_dataloader
    model: Any = runner.model
    samples = Samples(
        loader.dataset,
        model.data_preprocessor,
        loader.collate_fn,
        args.num_images,
    )
    order = torch.arange(args.num_images).split(loader.batch_size)
    batches = list(samples.batches([part.tolist() for part in order]))
    found = time_validation(model, batches, args.rounds)
    return dict(
        settings=settings_of(cfg, args, batches[0][0].device),
        num_images=args.num_images,
        batch_size=loader.batch_size,
        accuracy=found['accuracy'],
        **summarise(found['times'], args.num_images, {}),
    )


def settings_of(
    cfg: Config, args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """What the figures depend on."""
    processor = platform.processor() or platform.machine()
    if device.type == 'cuda':
        processor = torch.cuda.get_device_name(device)
    return dict(
        config=Path(args.config).name,
        options={k: str(v) for k, v in (args.cfg_options or {}).items()},
        train_attack=dict(cfg.model.train_attack),
        amp=args.amp,
        rounds=args.rounds,
        block=args.block,
        workers=cfg.train_dataloader.num_workers,
        device=processor,
        # Of the whole process, in the units of Linux.
        peak_resident_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / 1024,
        threads=torch.get_num_threads(),
        processes=get_world_size(),
        versions=dict(torch=torch.__version__, m2at_mm=m2at_mm.__version__),
    )


def report(results: dict[str, Any]) -> None:
    """Print the figures."""
    console = Console()
    console.print(to_table(results))
    for name, (clean, robust) in results.get('accuracy', {}).items():
        console.print(
            f'{name:>18}: clean {clean:.1f} %, robust {robust:.1f} %'
        )
    parts = results.get('parts', {})
    for part, seconds in parts.items():
        share = seconds / sum(parts.values())
        waited = results['waits'][part]
        console.print(
            f'{part:>18}: {1000 * seconds:8.2f} ms {share:7.1%}'
            + (f', {1000 * waited:.2f} ms waited' if waited > 1e-4 else '')
        )
    if 'all_reduce' in results:
        sent = results['all_reduce']
        console.print(
            f'{"exchange alone":>18}: {1000 * sent["seconds"]:8.2f} ms, '
            f'{sent["bytes"] / 2**20:.1f} MiB a process'
        )


def main() -> None:
    """Measure as the command line says."""
    args = parse_args()
    with TemporaryDirectory() as log_dir:
        cfg = load_config(args, log_dir)
        if args.validation is None:
            results = measure(args, cfg)
        else:
            results = measure_validation(args, cfg)
    if not is_main_process():
        return
    report(results)
    if args.out is not None:
        text = json.dumps(results, indent=1) + '\n'
        write_whole(args.out, lambda path: path.write_text(text))


if __name__ == '__main__':
    cli.run(main)
