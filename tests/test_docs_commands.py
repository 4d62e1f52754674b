"""Every command of the documentation is run, or says what it needs.

A block of `bash` runs as it stands, in a folder with stand-ins for CONFIG,
CHECKPOINT and WORK_DIR. A comment `# needs: ...` leaves out its command, and
on a line of its own the rest of the block.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyautoattack
import pytest
from docs_support import PAGES, ROOT
from mmpretrain.datasets import CIFAR10
from PIL import Image
from tools_support import clean_env

# Commands that another test runs, by how they begin.
ELSEWHERE = {
    'python docs/example.py': 'test_docs_example.py::test_example',
    'python tools/check_configs.py': (
        'test_tools/test_check_configs.py::'
        'test_page_and_figures_of_some_configs'
    ),
    'python tools/check_resume.py': (
        'test_tools/test_check_resume.py::test_nothing_is_lost'
    ),
    'python tools/train.py my_vit.py': (
        'test_installation.py::test_fine_tuning_a_vision_transformer'
    ),
    'mim train': 'test_installation.py::test_training_by_mim',
}
# Looked at, not run: what they name must exist.
INSTALLERS = ('make', 'pip')
CONFIG = """_base_ = 'configs/m2at_resnet18_cifar10.py'
model = dict(
    classifier=dict(
        backbone=dict(base_channels=8, stem_channels=8),
        head=dict(in_channels=64),
    )
)
"""


class Command(NamedTuple):
    """A command of a page, on one line."""

    text: str
    needs: str  #: Empty if it runs anywhere.

    @property
    def elsewhere(self) -> bool:
        return self.text.startswith(tuple(ELSEWHERE))


def commands(block: str) -> list[Command]:
    """The commands of a block."""
    found, rest = [], ''
    for line in block.replace('\\\n', ' ').splitlines():
        text, _, comment = line.partition('# ')
        needs = comment.partition('needs: ')[2]
        if not text.strip():
            rest = needs or rest
            continue
        found.append(Command(' '.join(text.split()), needs or rest))
    return found


def blocks() -> dict[str, list[Command]]:
    """The different blocks of all pages, by a name for the test."""
    found: dict[str, list[Command]] = {}
    for page in PAGES:
        text = page.read_text('utf-8')
        for block in re.findall(r'```bash\n(.*?)```', text, re.DOTALL):
            name = f'{page.relative_to(ROOT)}-{len(found)}'
            if commands(block) not in found.values():
                found[name] = commands(block)
    return found


BLOCKS = blocks()
ALL = [command for block in BLOCKS.values() for command in block]
TO_RUN = {
    name: lines
    for name, block in BLOCKS.items()
    for lines in [
        [
            one.text
            for one in block
            if not one.needs
            and not one.elsewhere
            and not one.text.startswith(INSTALLERS)
        ]
    ]
    if any(line.startswith('python') for line in lines)
}


def test_conventions_are_read() -> None:
    block = (
        'a --b \\\n    c   # comment\nd    # needs: a GPU\n'
        '# needs: Slurm\ne\nf # needs: two\n'
    )
    assert commands(block) == [
        Command('a --b c', ''),
        Command('d', 'a GPU'),
        Command('e', 'Slurm'),
        Command('f', 'two'),
    ]


def test_every_command_is_run_or_says_what_it_needs() -> None:
    run = {line for lines in TO_RUN.values() for line in lines}
    assert len(run) > 20
    for command in ALL:
        assert (
            command.text in run
            or command.needs
            or command.elsewhere
            or command.text.startswith(INSTALLERS)
        ), command


@pytest.mark.parametrize('beginning', ELSEWHERE)
def test_what_another_test_runs(beginning: str) -> None:
    assert any(command.text.startswith(beginning) for command in ALL)
    file, _, name = ELSEWHERE[beginning].partition('::')
    assert f'def {name}(' in (ROOT / 'tests' / file).read_text('utf-8')


@pytest.mark.parametrize(
    'text',
    sorted({one.text for one in ALL if ' tools/' in f' {one.text}'}),
)
def test_tools_know_the_arguments(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(text)
    (place,) = (k for k, w in enumerate(words) if w.startswith('tools/'))
    path = ROOT / words[place]
    assert path.is_file()
    for word in words:
        if word.startswith(('configs/', 'docs/')) and word.endswith('.py'):
            assert (ROOT / word).is_file()
    arguments = words[place + 1 :]
    if path.name == 'slurm_train.sh':  # partition, name, config, work dir
        arguments = [arguments[2], *arguments[4:]]
        path = path.parent / 'train.py'
    monkeypatch.setattr(sys, 'argv', [str(path), *arguments])
    runpy.run_path(str(path))['parse_args']()


@pytest.mark.parametrize(
    'text',
    sorted({one.text for one in ALL if one.text.startswith(INSTALLERS)}),
)
def test_what_is_installed_exists(text: str) -> None:
    words = shlex.split(text)
    if words[0] == 'make':
        makefile = (ROOT / 'Makefile').read_text('utf-8')
        assert re.search(rf'^{words[1]}:', makefile, re.MULTILINE)
    for extra in re.findall(r'\[(\w+)\]', text):
        assert f"'{extra}': " in (ROOT / 'setup.py').read_text('utf-8')


def _make_images(root: Path) -> None:
    """CIFAR-10 as folders, of random pixels: 110 and 2 of each class."""
    draw = np.random.default_rng(0)
    for part, num in (('train', 110), ('test', 2)):
        for name in CIFAR10.METAINFO['classes']:
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(num):
                pixels = draw.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{k:03}.png')


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository's, with a training in WORK_DIR."""
    folder = tmp_path_factory.mktemp('repository')
    for name in ('tools', 'configs', 'm2at_mm'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'docs' / 'images').mkdir(parents=True)
    _make_images(folder / 'data' / 'cifar10')
    (folder / 'config.py').write_text(CONFIG)
    examples = Path(pyautoattack.__file__).parent / 'examples'
    shutil.copy(examples / 'model_test.pt', folder / 'SOURCE.pt')
    results = dict(clean=80, attacks=dict(autoattack=45), num_samples=9)
    results.update(threat_model=dict(norm='linf', eps=8 / 255), alarms=[])
    (folder / 'results.json').write_text(json.dumps(results))
    command = folder / 'bin' / 'python'
    command.parent.mkdir()
    script = ROOT / 'tests' / 'shrunk_command.py'
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    command.chmod(0o755)
    run(
        folder,
        'python tools/train.py configs/m2at_resnet18_cifar10.py '
        '--work-dir WORK_DIR',
    )
    shutil.copytree(folder / 'WORK_DIR', folder / 'WORK_DIR_2')
    compared = folder / 'work_dirs' / 'compare_narrow' / 'm2at_seed0'
    shutil.copytree(folder / 'WORK_DIR', compared)
    (compared / 'epoch_1.pth').rename(compared / 'epoch_12.pth')
    return folder


def run(folder: Path, *lines: str) -> None:
    env = clean_env()
    env['PATH'] = f'{folder / "bin"}:{env["PATH"]}'
    known = os.environ.get('PYTHONPATH')
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), known]))
    done = subprocess.run(
        ['bash', '-e', '-c', '\n'.join(lines)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize('name', TO_RUN)
def test_block_runs(name: str, sandbox: Path) -> None:
    run(sandbox, *TO_RUN[name])
