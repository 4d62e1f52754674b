"""Train and evaluate methods under one budget, and put them side by side."""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from comparison import summary
from comparison.plan import Plan, Run, load_plan
from m2at_mm import cli
from m2at_mm.evaluation.results import group_alike
from m2at_mm.files import best_checkpoint, last_checkpoint, write_text
from m2at_mm.reporting.run_log import RunLog, read_run

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__, epilog=cli.GOES_ON)
    add = parser.add_argument
    add('plan', type=Path, help='config with runs, seeds, common, evaluation')
    add('--work-dir', type=Path, required=True, help='folder of the runs')
    text = 'for OUT.md, OUT.png, OUT.json, and OUT.curves.json if there are'
    add('--out', type=Path, required=True, help=text)
    add('--jobs', type=int, default=1, help='runs at a time, sharing the CPUs')
    return parser.parse_args()


def finish(run: Run, plan: Plan, work_dir: Path, threads: int) -> str:
    """Train and evaluate a run as far as it is not done; say how it went."""
    folder = work_dir / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    done, results = folder / 'trained', folder / 'results.json'
    if not done.exists():
        words = [run.config, '--work-dir', folder, '--resume']
        if run.recipe is not None:
            words += ['--recipe', run.recipe]
        options = {'randomness.seed': run.seed, **run.options}
        words += ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
        if _call('train', words, folder, threads):
            return f'{run.folder}: training failed, see {folder}/train.txt'
        done.touch()
    if not results.exists():
        # The runner has saved the whole config beside the checkpoints.
        words = [next(folder.glob('*.py')), _checkpoint(folder, plan)]
        words += ['--attacks', 'clean', *plan.evaluation['attacks']]
        if 'num_samples' in plan.evaluation:
            words += ['--num-samples', plan.evaluation['num_samples']]
        if 'eps' in plan.evaluation:
            words += ['--eps', plan.evaluation['eps']]
        words += ['--work-dir', folder / 'test', '--out', results]
        if _call('test', words, folder, threads):
            return f'{run.folder}: evaluation failed, see {folder}/test.txt'
    return f'{run.folder}: done'


def _call(tool: str, words: list[Any], folder: Path, threads: int) -> int:
    """Exit code of a tool; its output goes to a file in the folder."""
    with (folder / f'{tool}.txt').open('a', encoding='utf-8') as stream:
        return subprocess.run(
            [sys.executable, str(TOOLS / f'{tool}.py'), *map(str, words)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
        ).returncode


def _checkpoint(folder: Path, plan: Plan) -> Path:
    find = last_checkpoint if plan.checkpoint == 'last' else best_checkpoint
    if (found := find(folder)) is not None:
        return found
    raise FileNotFoundError(
        f'{folder} has no {plan.checkpoint} checkpoint: give the configs '
        "save_best, or set checkpoint='last' in the plan"
    )


def collect(plan: Plan, work_dir: Path) -> dict[str, list[RunLog]]:
    """The runs that are evaluated, by name, in the order of their seeds."""
    found: dict[str, list[RunLog]] = {run.name: [] for run in plan}
    for run in plan:
        folder = work_dir / run.folder
        if (folder / 'results.json').exists():
            found[run.name].append(log := read_run(folder))
            assert log.results is not None
            log.results.update(seed=run.seed, validation=_validation(log))
    return found


def _validation(log: RunLog) -> dict[str, Any] | None:
    """Robust accuracy of the best and of the last checkpoint, and clean and
    robust accuracy of each validation, by its epoch; in per cent."""
    if log.selected is None or log.best_and_last is None:
        return None
    points = log.validation[log.selected]
    clean = log.validation.get('robust/clean', {})
    best, last = (points[place] for place in log.best_and_last)
    curve = {f'{at:g}': [clean.get(at), points[at]] for at in points}
    return dict(best=best, last=last, curve=curve)


def write(plan: Plan, logs: dict[str, list[RunLog]], out: Path) -> None:
    """Write table, picture and the figures behind them."""
    found: Any = {k: [log.results for log in runs] for k, runs in logs.items()}
    if not (entries := summary.summarise(found)):
        return
    table = summary.to_markdown(entries)
    files: dict[str, str] = {'.json': json.dumps(found, indent=2) + '\n'}
    points: dict[str, dict[str, None]] = {}  # in order, each name once
    for run in plan:
        if run.curve is not None and logs[run.name]:
            points.setdefault(run.curve, {})[run.name] = None
    evaluated = {
        f'{name} {seed}': run
        for name, runs in found.items()
        for seed, run in enumerate(runs)
    }
    different, _ = group_alike(evaluated, 'radius', 'images', 'attacks')
    if different:
        table += f'\nThe evaluations differ in {", ".join(different)}: do not '
        table += 'compare their figures.\n'
    if points and 'images' not in different:
        correct = {
            name: [summary.correct_images(log.predictions) for log in runs]
            for name, runs in logs.items()
        }
        curves = summary.make_curves(points, entries, correct, plan.between)
        table += '\n' + summary.curves_to_markdown(curves)
        files['.curves.json'] = json.dumps(curves, indent=2) + '\n'
    for suffix, text in (files | {'.md': table}).items():
        write_text(out.with_name(out.name + suffix), text)
    summary.plot_trade_off(entries, out.with_name(f'{out.name}.png'), points)
    print(table)
    print(f'table, picture and figures: {out}.md, .png, .json')


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    plan = load_plan(args.plan)
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for message in pool.map(
            lambda run: finish(run, plan, args.work_dir, threads), plan
        ):
            if 'failed' in message:
                failed.append(message)
            print(message, flush=True)
    write(plan, collect(plan, args.work_dir), args.out)
    sys.exit('\n'.join(failed) or None)


if __name__ == '__main__':
    cli.run(main)
