"""Kill a training at random moments and see that it loses nothing.

The training runs once without interruption, then again and again, each time
killed with SIGKILL and resumed. Each must end with the same checkpoints and
logs, bit for bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2at_mm import cli

_POLL = 0.0005  # seconds
_PATIENCE = 600.0
TRAIN = Path(__file__).with_name('train.py')

# Of the machine, not of the training.
_CLOCKS = ('time', 'data_time', 'memory', 'eta')
# Of the message hub: the config's text, dates and versions, and where the
# files are.
_PLACES = {'cfg', 'experiment_name', 'mmengine_version', 'last_ckpt'}
_PLACES |= {'best_ckpt', 'outdated_ckpts', 'preemption_ckpt'}


def differences(first: Path, second: Path) -> list[str]:
    """Where the work dirs of two finished trainings differ, bit for bit.

    Compared are every checkpoint (weights, optimiser, schedulers, average
    weights, random streams, logged figures), the checkpoints' names, and the
    last line of each step in the logs; not times and memory. The second
    training may consist of several starts.
    """
    found = []
    one, other = _checkpoints(first), _checkpoints(second)
    if one.keys() != other.keys():
        found.append(f'checkpoints: {sorted(one)} and {sorted(other)}')
    for name in sorted(one.keys() & other.keys()):
        pair = [torch.load(p[name], weights_only=True) for p in (one, other)]
        for content in pair:
            content.pop('meta', None)  # dates and the config's text
        found += [f'{name}: {where}' for where in _unequal(*pair)]
    lines, others = _log(first), _log(second)
    every = sorted(lines.keys() | others.keys())
    steps = [key for key in every if lines.get(key) != others.get(key)]
    return found + ([f'logs at {steps[:5]}'] if steps else [])


def _checkpoints(folder: Path) -> dict[str, Path]:
    """The files by name, without the hash of a published one."""
    return {
        path.name.split('-')[0] + ('-' if '-' in path.name else ''): path
        for path in folder.glob('*.pth')
    }


def _unequal(first: Any, second: Any, where: str = '') -> Iterator[str]:
    if type(first) is not type(second):
        yield f'{where}: {type(first).__name__}, {type(second).__name__}'
    elif isinstance(first, dict):
        if one_sided := (first.keys() ^ second.keys()) - _PLACES:
            yield f'{where}: keys {sorted(one_sided)}'
        for key in first.keys() & second.keys():
            if key not in _PLACES and not str(key).endswith(_CLOCKS):
                yield from _unequal(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            yield f'{where}: {len(first)} and {len(second)} entries'
        for number, pair in enumerate(zip(first, second)):
            yield from _unequal(*pair, f'{where}[{number}]')
    elif isinstance(first, Tensor):
        if not torch.equal(first, second):
            yield where
    elif hasattr(first, 'data') and hasattr(first, '__dict__'):
        # A history of MMEngine's message hub.
        yield from _unequal(vars(first), vars(second), where)
    else:
        same = first == second
        if not (same.all() if hasattr(same, 'all') else same):
            yield f'{where}: {first!r} and {second!r}'


def _log(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The last line of each step over all starts, without clocks."""
    lines = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for text in path.read_text('utf-8').splitlines():
            line = json.loads(text)
            kind = 'train' if 'loss' in line else 'val'
            kept = {k: v for k, v in line.items() if k not in _CLOCKS}
            lines[kind, line['step']] = kept
    return lines


Process = subprocess.Popen[bytes]


def start(command: Sequence[str], work_dir: Path) -> Process:
    """Start a training as the leader of a process group of its own.

    The command has the words after ``python``, of a tool like tools/train.py,
    without work dir. This is made; ``output.txt`` in it gets the output.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / 'output.txt').open('a') as output:
        words = [sys.executable, *command, '--work-dir', str(work_dir)]
        both: Any = dict(stdout=output, stderr=subprocess.STDOUT)
        return subprocess.Popen(words, **both, start_new_session=True)


def run_to_end(command: Sequence[str], work_dir: Path) -> None:
    """Run a training to its end, see :func:`start`.

    Raises:
        RuntimeError: It ended with an error.
    """
    if code := start(command, work_dir).wait():
        raise RuntimeError(
            f'training ended with exit code {code}: see '
            f'{work_dir / "output.txt"}'
        )


def kill_and_resume(
    command: Sequence[str],
    work_dir: Path,
    num_lines: int,
    pause: float | None,
    draws: random.Random,
) -> tuple[int, bool]:
    """Kill a training with SIGKILL, all its processes, and run it to its end.

    It is killed within ``pause`` seconds after a random line of the log, which
    has ``num_lines`` in all; with None, while the next checkpoint is written.
    Gives the lines in the log at that moment, and whether a checkpoint was
    being written.

    Raises:
        RuntimeError: The training ended by itself before its moment.
    """
    process = start(command, work_dir)
    # A checkpoint must follow the line.
    line = draws.randrange(num_lines // 2 if pause is None else num_lines)
    _wait(process, lambda: count_lines(work_dir) >= line)
    if pause is None:
        _wait(process, lambda: _is_writing(work_dir))
    else:
        time.sleep(draws.uniform(0, pause))
    writing = _is_writing(work_dir)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lines = count_lines(work_dir)
    run_to_end([*command, '--resume'], work_dir)
    return lines, writing


def count_lines(work_dir: Path) -> int:
    """Lines in the logs of all starts, 0 before the first one."""
    logs = work_dir.glob('*/vis_data/scalars.json')
    return sum(path.read_bytes().count(b'\n') for path in logs)


def _is_writing(work_dir: Path) -> bool:
    return any(work_dir.glob('.*.pth.unfinished'))


def _wait(process: Process, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not reached():
        if process.poll() is not None:
            raise RuntimeError(
                f'training ended with exit code {process.returncode} before '
                'it was to be killed'
            )
        if time.monotonic() > end:
            process.kill()
            raise RuntimeError(f'no progress within {_PATIENCE:g} s')
        time.sleep(_POLL)


def parse_args() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = cli.Parser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add('config', help='of a short training')
    add('--work-dir', type=Path, required=True, help='empty or missing')
    add('--runs', type=int, default=20, help='how often it is killed')
    add('--seed', type=int, default=0, help='of the moments of killing')
    add('--out', type=Path, help='JSON of what happened')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    return parser.parse_args()


def main() -> None:
    """Exit code 1 if a resumed training differs."""
    args = parse_args()
    if args.work_dir.exists() and any(args.work_dir.iterdir()):
        sys.exit(f'--work-dir={args.work_dir} holds files: give an empty one')
    command = [str(TRAIN), args.config, '--cfg-options']
    # Killed before its first checkpoint, a run begins anew: with this seed.
    command += ['randomness.seed=0', *args.cfg_options]
    command.append('default_hooks.logger.interval=1')
    whole = args.work_dir / 'uninterrupted'
    begin = time.monotonic()
    run_to_end(command, whole)
    num_lines = count_lines(whole)
    pace = (time.monotonic() - begin) / num_lines
    print(f'uninterrupted: {num_lines} lines of log', flush=True)
    draws = random.Random(args.seed)
    trials = []
    for number in range(args.runs):
        part = args.work_dir / f'killed_{number:02d}'
        pause = None if number % 4 == 3 else pace
        moment = num_lines, pause, draws
        lines, writing = kill_and_resume(command, part, *moment)
        differs = differences(whole, part)
        trials.append(dict(lines=lines, writing=writing, differs=differs))
        when = ' while writing a checkpoint' if writing else ''
        found = '; '.join(differs[:3]) or 'equal bit for bit'
        told = f'{part.name}: killed after {lines} lines{when}: {found}'
        print(told, flush=True)
    if args.out:
        args.out.write_text(json.dumps(trials, indent=2) + '\n', 'utf-8')
    unequal = sum(bool(trial['differs']) for trial in trials)
    print(f'{len(trials) - unequal} of {len(trials)} equal bit for bit')
    sys.exit(1 if unequal else 0)


if __name__ == '__main__':
    cli.run(main)
