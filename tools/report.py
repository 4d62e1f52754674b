"""Write a page on a training run, or on several side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from m2at_mm import cli
from m2at_mm.checks import check_count
from m2at_mm.files import write_text
from m2at_mm.reporting import Report, RunLog, measure, read_runs, render


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    text = 'the --work-dir of a training'
    add('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help=text)
    text = 'the page, like report.html; one that is there is replaced'
    add('--out', type=Path, required=True, help=text)
    text = 'attack N test images of each run, spread over the classes '
    text += '(default: 200)'
    add('--num-images', type=int, default=200, metavar='N', help=text)
    text = 'report on the files alone, without loading data and networks'
    add('--no-model', action='store_true', help=text)
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Refuse arguments that would fail only at the end of the work."""
    check_count('--num-images', args.num_images)
    if args.out.is_dir():
        raise ValueError(
            f'--out {str(args.out)!r} is a folder: give the name of a file in '
            'it, like report.html'
        )
    parent = next(p for p in args.out.absolute().parents if p.exists())
    if not parent.is_dir():
        raise ValueError(
            f'--out {str(args.out)!r} is inside {str(parent)!r}, which is a '
            'file: give a place in a folder'
        )


def measure_all(runs: Sequence[RunLog], num_images: int) -> Report:
    """Measure each run, or say why that is impossible."""
    measured, missing = {}, {}
    for run in runs:
        if run.checkpoint is None:
            files = (
                'neither best_*.pth nor the file that last_checkpoint names'
            )
            missing[run.name] = f'{run.folder} has {files}'
            continue
        print(f'{run.name}: attacking with {run.checkpoint.name}', flush=True)
        try:
            measured[run.name] = measure(run, num_images)
        # Whatever a missing or unfit dataset, checkpoint or class ends in.
        except Exception as error:
            missing[run.name] = f'{type(error).__name__}: {error}'
    return Report(runs, measured, missing)


def main() -> None:
    """Write the report that the command line asks for."""
    args = parse_args()
    check(args)
    runs = read_runs(args.work_dirs)
    missing = {run.name: '--no-model was given' for run in runs}
    report = Report(runs, missing=missing)
    if not args.no_model:
        report = measure_all(runs, args.num_images)
    write_text(args.out, render(report))
    for name, reason in report.missing.items():
        print(f'{name} was not attacked: {reason}')
    print(f'report: {args.out.resolve()}')


if __name__ == '__main__':
    cli.run(main)
