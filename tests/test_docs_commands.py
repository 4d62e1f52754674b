"""Every command of the documentation is run, or says what it needs.

A block of `bash` runs on a few images and a narrow network, in a folder with
stand-ins for CONFIG, CHECKPOINT and WORK_DIR. A comment `# needs: ...` leaves
out its command, and on a line of its own the rest of the block.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pyautoattack
import pytest
from tools_support import NARROW, PAGES, ROOT, run_in_fork

# Commands that another test runs, by how they begin.
ELSEWHERE = {
    'python docs/example.py': 'test_docs_code.py::test_example',
    'python tools/check_configs.py': 'test_tools/test_check_configs.py::'
    'test_page_and_figures_of_some_configs',
    'python tools/check_resume.py': 'test_tools/test_check_resume.py::'
    'test_nothing_is_lost',
    'python tools/train.py my_vit.py': 'test_installation.py::'
    'test_fine_tuning_a_vision_transformer',
    'mim train': 'test_installation.py::'
    'test_own_config_with_the_tools_of_openmmlab',
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
STAND_INS = {'CONFIG': 'config.py', 'CHECKPOINT': 'WORK_DIR/epoch_1.pth'}
LOADERS = {
    'train_dataloader.dataset.indices': 8,
    'train_dataloader.batch_size': 4,
    'val_dataloader.dataset.indices': 10,
}
for part in ('train', 'val', 'test'):
    LOADERS[f'{part}_dataloader.num_workers'] = 0
    LOADERS[f'{part}_dataloader.persistent_workers'] = False
    LOADERS[f'{part}_dataloader.dataset.val_size'] = 20
# What each tool takes besides what the command says; of two the last counts.
NUMBERS = {one: ['--num-images', '4'] for one in ('visualize', 'report')}
NUMBERS |= dict(test=['--num-samples', '4'], benchmark=['--rounds', '1'])
EPOCHS = {'train': 1, 'benchmark': 9, 'test': 1, 'visualize': 1}


def shrink(tool: str, words: list[str]) -> list[str]:
    """The words of a command, for a few images and a narrow network."""
    words = [STAND_INS.get(word, word) for word in words]
    words += NUMBERS.get(tool, [])
    if tool not in EPOCHS:
        return words
    options = {**NARROW, **LOADERS, 'train_cfg.max_epochs': EPOCHS[tool]}
    if '--cfg-options' not in words:
        words.append('--cfg-options')
    place = words.index('--cfg-options') + 1
    words[place:place] = [f'{key}={value}' for key, value in options.items()]
    return words


class Command(NamedTuple):
    """A command of a page, on one line; what it needs, empty if nothing."""

    text: str
    needs: str

    @property
    def runs_here(self) -> bool:
        other = (*ELSEWHERE, *INSTALLERS)
        return not self.needs and not self.text.startswith(other)


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
ALL = sorted({command for block in BLOCKS.values() for command in block})
TO_RUN = {
    name: lines
    for name, block in BLOCKS.items()
    for lines in [[one.text for one in block if one.runs_here]]
    if any(line.startswith('python tools/') for line in lines)
}


def test_every_command_is_run_or_says_what_it_needs() -> None:
    block = 'a --b \\\n  c  # comment\nd  # needs: a GPU\n# needs: Slurm\ne\n'
    expected = [('a --b c', ''), ('d', 'a GPU'), ('e', 'Slurm')]
    assert [*map(tuple, commands(block))] == expected
    run = {line for lines in TO_RUN.values() for line in lines}
    assert len(run) > 20
    assert run == {command.text for command in ALL if command.runs_here}


@pytest.mark.parametrize('beginning', ELSEWHERE)
def test_what_another_test_runs(beginning: str) -> None:
    assert any(command.text.startswith(beginning) for command in ALL)
    file, _, name = ELSEWHERE[beginning].partition('::')
    assert f'def {name}(' in (ROOT / 'tests' / file).read_text('utf-8')


def test_tools_know_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in {one.text for one in ALL if ' tools/' in f' {one.text}'}:
        words = shlex.split(text)
        (place,) = (k for k, w in enumerate(words) if w.startswith('tools/'))
        path = ROOT / words[place]
        assert path.is_file(), text
        for word in words:
            if word.startswith(('configs/', 'docs/')) and '.py' in word:
                assert (ROOT / word).is_file(), text
        arguments = words[place + 1 :]
        if path.name == 'slurm_train.sh':  # partition, name, config, work dir
            arguments = [arguments[2], *arguments[4:]]
            path = path.parent / 'train.py'
        monkeypatch.setattr(sys, 'argv', [str(path), *arguments])
        runpy.run_path(str(path))['parse_args']()


def test_what_is_installed_exists() -> None:
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
    for text in {one.text for one in ALL if one.text.startswith(INSTALLERS)}:
        words = shlex.split(text)
        assert words[0] != 'make' or words[1] in targets, text
        for extra in re.findall(r'\[(\w+)\]', text):
            assert f"'{extra}': " in (ROOT / 'setup.py').read_text('utf-8')


@pytest.fixture(scope='module')
def repo(tmp_path_factory: pytest.TempPathFactory, cifar10_root: Path) -> Path:
    """A folder like the repository's, with a training in WORK_DIR."""
    folder = tmp_path_factory.mktemp('repository')
    (folder / 'docs' / 'images').mkdir(parents=True)
    (folder / 'data').mkdir()
    (folder / 'data' / 'cifar10').symlink_to(cifar10_root)
    for name in ('tools', 'configs', 'm2at_mm'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'config.py').write_text(CONFIG)
    examples = Path(pyautoattack.__file__).parent / 'examples'
    shutil.copy(examples / 'model_test.pt', folder / 'SOURCE.pt')
    results = dict(clean=80, attacks=dict(autoattack=45), num_samples=9)
    results.update(threat_model=dict(norm='linf', eps=8 / 255), alarms=[])
    (folder / 'results.json').write_text(json.dumps(results))
    config = 'configs/m2at_resnet18_cifar10.py'
    run(folder, f'python tools/train.py {config} --work-dir WORK_DIR')
    shutil.copytree(folder / 'WORK_DIR', folder / 'WORK_DIR_2')
    return folder


def run(folder: Path, *lines: str) -> None:
    for line in lines:
        words = shlex.split(line)
        assert words[0] == 'python', line
        tool = Path(words[1]).stem
        ended = run_in_fork(tool, shrink(tool, words[2:]), folder)
        assert ended.code == 0, ended.out[-2000:] + ended.err[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize('name', TO_RUN)
def test_block_runs(name: str, repo: Path) -> None:
    run(repo, *TO_RUN[name])
