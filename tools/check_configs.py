"""Try a recipe on every config of the installed mmpretrain.

With --out, the same command goes on where it was stopped, and tries what
failed again.
"""

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import mmcv
import mmengine
import mmpretrain
import torch
from mmengine.config import Config

from config_coverage.attempt import STATUSES, Outcome, try_config
from m2at_mm import cli
from m2at_mm.datasets import Digits
from m2at_mm.files import write_text
from m2at_mm.recipes import recipe_names

CONFIGS = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
_IMAGES_PER_CLASS = 20


def run_all(
    configs: Sequence[str],
    recipe: str,
    images: Path,
    jobs: int = 2,
    seconds: float = 600.0,
) -> Iterator[Outcome]:
    """Attempt every config, in order, each in a fork of this process.

    A process of its own gives its memory back and can die alone; a fork
    doesn't import everything again. ``jobs`` are made at a time, each with
    one thread and within some seconds.
    """
    torch.set_num_threads(1)  # before the forks: threads don't survive one
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(
            lambda config: _run(config, recipe, images, seconds), configs
        )


def _run(config: str, recipe: str, images: Path, seconds: float) -> Outcome:
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    given = (sender, config, recipe, images)
    process = context.Process(target=_report, args=given)
    process.start()
    sender.close()  # so that the other end's closing is noticed
    try:
        if receiver.poll(seconds):
            outcome: Outcome = receiver.recv()
            return outcome
        note = f'no result within {seconds:g} s'
    except EOFError:
        process.join()
        note = f'its process ended with exit code {process.exitcode}'
    finally:
        process.kill()
        process.join()
    return Outcome(config, '', 'fails', note)


def _report(sender: Any, config: str, recipe: str, images: Path) -> None:
    # MMEngine formats a config for its log again and again, for seconds.
    Config.pretty_text = property(repr)
    sender.send(try_config(config, recipe, images))


def to_markdown(outcomes: Sequence[Outcome], heading: str) -> str:
    """Tables by outcome and by family, and reasons for what does not work.

    Args:
        outcomes (Sequence[Outcome]): Of all configs.
        heading (str): What was run and where, in Markdown.
    """
    total = Counter(one.status for one in outcomes)
    lines = [heading, '', '| outcome | configs | meaning |', '|---|---:|---|']
    for status, meaning in STATUSES.items():
        lines.append(f'| {status} | {total[status]} | {meaning} |')
    lines += ['', '## By family', '']
    lines += [f'| family | {" | ".join(STATUSES)} |', '|---|' + '---:|' * 4]
    counts = Counter((one.family, one.status) for one in outcomes)
    for family in sorted({one.family for one in outcomes}):
        cells = [str(counts[family, key] or '') for key in STATUSES]
        lines.append(f'| {" | ".join([family, *cells])} |')
    for status, meaning in STATUSES.items():
        if status != 'works' and total[status]:
            lines += ['', f'## {status.capitalize()}: {meaning}', '']
            lines += _reasons([o for o in outcomes if o.status == status])
    varied = [one for one in outcomes if one.status == 'works' and one.note]
    if varied:
        lines += ['', '## Run in a variant', '']
        lines += [f'- `{one.config}`: {one.note}' for one in varied]
    return '\n'.join(lines) + '\n'


def _reasons(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for reason in sorted({one.note for one in outcomes}):
        lines.append(f'- {reason}:')
        lines += [f'    - `{o.config}`' for o in outcomes if o.note == reason]
    return lines


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    text = 'parts of config names, like resnet/ or vit-base (default: all)'
    add('patterns', nargs='*', help=text)
    add('--recipe', default='m2at', choices=recipe_names(), help='what to try')
    add('--per-family', type=int, metavar='N', help='only N of each family')
    add('--images', type=Path, help='{train,test}/<class>/*; digits without')
    add('--jobs', type=int, default=2, help='at a time')
    add('--timeout', type=float, default=600.0, help='seconds for a config')
    add('--out', type=Path, help='page of the results, with JSON beside it')
    return parser.parse_args()


def find_configs(patterns: list[str], per_family: int | None) -> list[str]:
    """Paths inside mmpretrain's configs."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py'))
    names = sorted(p.as_posix() for p in paths if '_base_' not in p.parts)
    wanted = patterns or ['']
    found = [name for name in names if any(one in name for one in wanted)]
    if not found:
        raise ValueError(f'no config of mmpretrain has one of {patterns}')
    by_family = groupby(found, lambda name: name.split('/')[0])
    return [name for _, one in by_family for name in islice(one, per_family)]


def link_few(images: Path, folder: Path) -> None:
    """A large folder would be listed anew for each config."""
    if not all((images / part).is_dir() for part in ('train', 'test')):
        told = f'--images {images} has no folders train and test'
        raise FileNotFoundError(told)
    for label in [*images.glob('train/*'), *images.glob('test/*')]:
        few = folder / label.relative_to(images)
        few.mkdir(parents=True)
        for path in sorted(label.iterdir())[:_IMAGES_PER_CLASS]:
            (few / path.name).symlink_to(path.resolve())


def write_digits(folder: Path) -> None:
    """Forty of the embedded digits per split, as images."""
    for split in ('train', 'test'):
        dataset = Digits(split=split, indices=40)
        for index in range(len(dataset)):
            sample = dataset.get_data_info(index)
            name = f'{split}/{sample["gt_label"]}/{index:03d}.png'
            mmcv.imwrite(sample['img'], str(folder / name))


def identity(args: argparse.Namespace) -> dict[str, str]:
    """What all outcomes of a file have in common."""
    packages = (mmpretrain, mmengine, torch)
    versions = {one.__name__: one.__version__ for one in packages}
    images = str(args.images or 'the embedded digits')
    return dict(recipe=args.recipe, images=images, **versions)


def load_done(args: argparse.Namespace) -> dict[str, Outcome]:
    """What an earlier run found, without what failed."""
    if args.out is None or not args.out.with_suffix('.json').exists():
        return {}
    path = args.out.with_suffix('.json')
    found = json.loads(path.read_text('utf-8'))
    outcomes = [Outcome(**entry) for entry in found.pop('configs')]
    if found != identity(args):
        raise ValueError(
            f'{path} is of {found}, but this is {identity(args)}: give '
            'another --out, or delete it'
        )
    return {one.config: one for one in outcomes if one.status != 'fails'}


def describe(outcomes: list[Outcome], args: argparse.Namespace) -> str:
    """The page's first lines."""
    classifiers = [one for one in outcomes if one.model == 'ImageClassifier']
    done = sum(one.status == 'works' for one in classifiers)
    command = ' '.join(['python', 'tools/check_configs.py', *sys.argv[1:]])
    common = identity(args)
    minutes = sum(one.seconds for one in outcomes) / 60
    memory = max(one.memory for one in outcomes)
    return (
        '# Coverage of the configs of mmpretrain\n\n'
        f'Recipe `{args.recipe}` on {len(outcomes)} configs of mmpretrain '
        f'{common["mmpretrain"]}, {len(classifiers)} of them with an '
        f'ImageClassifier, of which {done} work. Each was given real images '
        f'({common["images"]}) at a small size, random weights and an attack '
        "of one step; everything else is the config's own. Written by\n\n"
        f'```bash\n{command}\n```\n\n'
        f'in {minutes:.0f} process minutes, {args.jobs} at a time, of one '
        f'thread and at most {memory:.1f} GiB; Python '
        f'{platform.python_version()}, torch {common["torch"]}, mmengine '
        f'{common["mmengine"]}.'
    )


def save(found: list[Outcome], args: argparse.Namespace, page: bool) -> None:
    """Write the figures, and the page when all is done."""
    configs = [asdict(one) for one in found]
    figures = json.dumps(dict(identity(args), configs=configs), indent=2)
    write_text(args.out.with_suffix('.json'), figures + '\n')
    if page:
        write_text(args.out, to_markdown(found, describe(found, args)))


def main() -> None:
    """Check as the command line says."""
    args = parse_args()
    configs = find_configs(args.patterns, args.per_family)
    done = load_done(args)
    todo = [name for name in configs if name not in done]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        if args.images is None:
            write_digits(images)
        else:
            link_few(args.images, images)
        for one in run_all(todo, args.recipe, images, args.jobs, args.timeout):
            done[one.config] = one
            at = f'[{sum(name in done for name in configs)}/{len(configs)}]'
            note = f': {one.note}' if one.note else ''
            told = f'{at} {one.config}: {one.status}{note}'
            print(f'{told} ({one.seconds:.0f} s)', flush=True)
            if args.out is not None:
                save(list(done.values()), args, page=False)
    outcomes = [done[name] for name in sorted(done)]
    if args.out is not None:
        save(outcomes, args, page=True)
    if failed := [one.config for one in outcomes if one.status == 'fails']:
        sys.exit(f'{len(failed)} configs fail: {failed}')


if __name__ == '__main__':
    cli.run(main)
