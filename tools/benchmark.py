"""Time training iterations beside what one would use instead."""

import argparse
import copy
import json
import platform
import resource
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
from benchmarking import rivals, timing
from benchmarking.summary import count_flops, peak_flops, summarise, to_table
from benchmarking.timing import time_validation
from m2at_mm import cli
from m2at_mm.checks import check_count
from m2at_mm.files import write_text
from m2at_mm.model_wrappers.distributed import bare_model
from m2at_mm.recipes import config_root, recipe_names
from m2at_mm.registry import TASK_UTILS


def parse_args() -> argparse.Namespace:
    texts = ' '.join(
        f'{name}: {(kind.__doc__ or "").splitlines()[0]}'
        for name, kind in rivals.RIVALS.items()
    )
    parser = cli.Parser(description=__doc__, epilog=texts)
    config = config_root() / 'pgd-at_resnet18_cifar10.py'
    cli.add_common_arguments(parser, str(config))
    add = parser.add_argument
    text = 'what to time beside it (default: all that are installed)'
    known, installed = list(rivals.RIVALS), rivals.INSTALLED
    add('--against', nargs='*', choices=known, default=installed, help=text)
    text = "recipes whose method is timed, too, with the config's attack"
    add('--methods', nargs='+', choices=recipe_names(), default=[], help=text)
    add('--rounds', type=int, default=5, help='measured rounds (default: 5)')
    add('--block', type=int, default=3, help='iterations a round (default: 3)')
    add('--amp', action='store_true', help='ours and the limit in bfloat16')
    text = 'time the robust validation of a trained network instead'
    add('--validation', metavar='CHECKPOINT', help=text)
    add('--num-images', type=int, default=1000, help='number (default: 1000)')
    add('--out', type=Path, help='JSON file for the results')
    return parser.parse_args()


def load_config(args: argparse.Namespace, log_dir: str) -> Config:
    """The config without validation and checkpoints."""
    for name in ('rounds', 'block', 'num_images'):
        check_count(f'--{name.replace("_", "-")}', getattr(args, name))
    if args.validation is not None and args.launcher != 'none':
        raise ValueError(
            f'--launcher {args.launcher} with --validation: it is timed in '
            'one process, leave the launcher out'
        )
    if missing := set(args.against) - set(rivals.INSTALLED):
        raise ImportError(
            f'--against needs packages: pip install {" ".join(missing)}, or '
            'name others'
        )
    cfg = cli.load_adversarial_config(args.config, 'pgd-at')
    cli.merge_common_options(cfg, args)
    cfg.work_dir = args.work_dir or log_dir
    cfg.log_level = 'WARNING'
    if args.validation is not None:
        cfg.load_from, cfg.resume = args.validation, False
        return cfg
    # Before the data are read.
    attack = cfg.model.get('train_attack')
    rivals.check_attack(attack and TASK_UTILS.build(attack))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.default_hooks.pop('overfitting', None)
    if args.amp:
        cfg.optim_wrapper.setdefault('dtype', 'bfloat16')
        cli.use_amp(cfg)
    return cfg


def train_until_finished(
    cfg: Config,
    args: argparse.Namespace,
    hook: timing.Interleaving | timing.PartClock,
) -> Runner:
    """Train the config with a hook that ends it."""
    cfg = copy.deepcopy(cfg)
    cfg.experiment_name = type(hook).__name__
    runner = cli.build_runner(cfg, args)
    runner.register_hook(hook)
    try:
        runner.train()
    except timing.Finished:
        return runner
    raise ValueError(
        f'max_epochs={runner.max_epochs} of train_cfg ended before all was '
        'measured: raise it, or lower --rounds'
    )


def measure(args: argparse.Namespace, cfg: Config) -> dict[str, Any]:
    """All figures, as they are written to JSON."""
    methods = partial(rivals.switches_of, args.methods)
    others = partial(rivals.rivals_of, args.against)
    contest = timing.Interleaving(methods, others, args.rounds, args.block)
    runner = train_until_finished(cfg, args, contest)
    limit = contest.rivals.get('limit')
    flops = count_flops(limit) if limit else None
    # Of all processes together; the floating-point operations are of one.
    batch_size = cfg.train_dataloader.batch_size * get_world_size()
    known = contest.peak_memory, flops, peak_flops() if args.amp else None
    results = summarise(contest.times, batch_size, *known)
    if get_world_size() > 1:
        model = bare_model(runner.model)
        results['all_reduce'] = timing.time_all_reduce(model, args.rounds)
    clock = timing.PartClock(args.rounds * args.block)
    train_until_finished(cfg, args, clock)
    return dict(
        settings=settings_of(cfg, args),
        batch_size=batch_size,
        flops_per_iteration=flops,
        **results,
        parts={part: median(times) for part, times in clock.times.items()},
        waits={part: median(times) for part, times in clock.waits.items()},
    )


def measure_validation(args: argparse.Namespace, cfg: Config) -> Any:
    """The figures of a robust validation."""
    runner = cli.build_trained_runner(cfg, args)
    loader = runner.test_dataloader
    batches = rivals.batches_of(runner.model, loader, args.num_images)
    found = time_validation(runner.model, batches, args.rounds)
    return dict(
        settings=settings_of(cfg, args),
        num_images=args.num_images,
        batch_size=loader.batch_size,
        accuracy=found['accuracy'],
        **summarise(found['times'], args.num_images),
    )


def settings_of(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    device = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return dict(
        config=Path(args.config).name,
        options={k: str(v) for k, v in (args.cfg_options or {}).items()},
        train_attack=dict(cfg.model.train_attack),
        amp=args.amp,
        rounds=args.rounds,
        block=args.block,
        workers=cfg.train_dataloader.num_workers,
        device=device,
        # Of the whole process, in the units of Linux.
        peak_resident_mib=usage.ru_maxrss / 1024,
        threads=torch.get_num_threads(),
        processes=get_world_size(),
        versions=dict(torch=torch.__version__, m2at_mm=m2at_mm.__version__),
    )


def report(results: dict[str, Any]) -> None:
    """Print the figures."""
    console = Console()
    console.print(to_table(results))
    lines = {
        name: f'clean {clean:.1f} %, robust {robust:.1f} %'
        for name, (clean, robust) in results.get('accuracy', {}).items()
    }
    parts = results.get('parts', {})
    for part, seconds in parts.items():
        share, waited = seconds / sum(parts.values()), results['waits'][part]
        lines[part] = f'{1000 * seconds:8.2f} ms {share:7.1%}'
        if waited > 1e-4:
            lines[part] += f', {1000 * waited:.2f} ms waited'
    if 'all_reduce' in results:
        sent = results['all_reduce']
        size = f'{sent["bytes"] / 2**20:.1f} MiB a process'
        lines['exchange alone'] = f'{1000 * sent["seconds"]:8.2f} ms, {size}'
    for name, line in lines.items():
        console.print(f'{name:>18}: {line}')


def main() -> None:
    """Measure as the command line says."""
    args = parse_args()
    with TemporaryDirectory() as log_dir:
        cfg = load_config(args, log_dir)
        measured = measure if args.validation is None else measure_validation
        results = measured(args, cfg)
    if is_main_process():
        report(results)
        if args.out is not None:
            write_text(args.out, json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    cli.run(main)
