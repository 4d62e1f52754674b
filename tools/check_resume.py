"""Kill a training at random moments and see that it loses nothing.

The training runs once without interruption, then again and again, each time
killed with SIGKILL and resumed. Each must end with the same checkpoints and
logs, bit for bit.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

from kill_and_resume.differences import differences
from kill_and_resume.trial import count_lines, kill_and_resume, run_to_end
from m2at_mm import cli

TRAIN = Path(__file__).with_name('train.py')


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
