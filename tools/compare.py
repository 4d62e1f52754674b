"""Train and evaluate methods under one budget, and put them side by side."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from m2at_mm import cli
from m2at_mm.comparison import (
    Plan,
    Run,
    load_plan,
    plot_trade_off,
    summarise,
    to_markdown,
)
from m2at_mm.runner.atomic_files import write_whole
from m2at_mm.runner.checkpoints import best_checkpoint, last_checkpoint

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    """Arguments of the comparison."""
    parser = cli.Parser(
        description=__doc__,
        epilog='Stopped at any time, the same command goes on where it was.',
    )
    parser.add_argument(
        'plan', type=Path, help='config with runs, seeds, common, evaluation'
    )
    parser.add_argument(
        '--work-dir', type=Path, help='folder of the runs', required=True
    )
    parser.add_argument(
        '--out',
        type=Path,
        required=True,
        help='where the table goes: OUT.md, OUT.png and OUT.json',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at a time; the CPU threads are shared among them',
    )
    return parser.parse_args()


def finish(run: Run, plan: Plan, work_dir: Path, threads: int) -> str:
    """Train and evaluate a run as far as it is not done.

    Returns:
        str: What became of it, for the user.
    """
    folder = work_dir / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    words = [run.config]
    if run.recipe is not None:
        words += ['--recipe', run.recipe]
    options = [f'{key}={value}' for key, value in run.options.items()]
    done = folder / 'trained'
    if not done.exists():
        words += ['--work-dir', str(folder), '--resume', '--cfg-options']
        words += [f'randomness.seed={run.seed}', *options]
        code = _call('train', words, folder / 'train.txt', threads)
        if code:
            return f'{run.folder}: training failed, see {folder}/train.txt'
        done.touch()
    if not (folder / 'results.json').exists():
        # The runner has saved the whole config beside the checkpoints.
        config = next(folder.glob('*.py'))
        words = [str(config), str(_checkpoint(folder, plan.checkpoint))]
        words += ['--attacks', 'clean', *plan.evaluation['attacks']]
        if 'num_samples' in plan.evaluation:
            words += ['--num-samples', str(plan.evaluation['num_samples'])]
        words += ['--work-dir', str(folder / 'test')]
        words += ['--out', str(folder / 'results.json')]
        code = _call('test', words, folder / 'test.txt', threads)
        if code:
            return f'{run.folder}: evaluation failed, see {folder}/test.txt'
    return f'{run.folder}: done'


def _call(tool: str, words: list[str], log: Path, threads: int) -> int:
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with log.open('a', encoding='utf-8') as stream:
        return subprocess.run(
            [sys.executable, str(TOOLS / f'{tool}.py'), *words],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=env,
        ).returncode


def _checkpoint(folder: Path, which: str) -> Path:
    """The last checkpoint, or the newest best one that is not a copy."""
    find = last_checkpoint if which == 'last' else best_checkpoint
    found = find(folder)
    if found is None:
        raise FileNotFoundError(
            f'{folder} has no {which} checkpoint: give the configs save_best, '
            "or set checkpoint='last' in the plan"
        )
    return found


def collect(plan: Plan, work_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The results that are there, by method."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in plan.runs}
    for run in plan:
        path = work_dir / run.folder / 'results.json'
        if path.exists():
            results = json.loads(path.read_text(encoding='utf-8'))
            found[run.name].append(dict(results, seed=run.seed))
    return found


def write(found: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Write table, picture and the figures behind them."""
    entries = summarise(found)
    if not entries:
        return
    table = to_markdown(entries)
    text = json.dumps(found, indent=2) + '\n'
    write_whole(
        out.with_suffix('.json'),
        lambda path: path.write_text(text, encoding='utf-8'),
    )
    write_whole(
        out.with_suffix('.md'),
        lambda path: path.write_text(table, encoding='utf-8'),
    )
    plot_trade_off(entries, out.with_suffix('.png'))
    print(table)
    print(f'table, picture and figures: {out}.md, .png, .json')


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    plan = load_plan(args.plan)
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(finish, run, plan, args.work_dir, threads)
            for run in plan
        ]
        messages = []
        for job in jobs:
            messages.append(job.result())
            print(messages[-1], flush=True)
    write(collect(plan, args.work_dir), args.out)
    failed = [message for message in messages if 'failed' in message]
    if failed:
        sys.exit('\n'.join(failed))


if __name__ == '__main__':
    cli.run(main)
