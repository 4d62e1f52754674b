"""Wrong configs, data, checkpoints and command lines, at every tool."""

from __future__ import annotations

import os
import pickle
import re
import runpy
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpretrain.datasets import CIFAR10
from PIL import Image
from tools_support import DIGITS, MAIN, ROOT, TINY, cli_options

SECONDS = 10.0
STOCK = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


@dataclass
class Bad:
    """A wrong input.

    Attributes:
        message (str): Pattern of the error; argument, value and remedy.
        options (dict): Of ``--cfg-options``.
        words (tuple): More of the command line; ``{name}`` is a file of
            :func:`files`.
        tool (str): In tools/.
        config (Path | str): What is trained or tested.
    """

    message: str
    options: dict[str, Any] | None = None
    words: tuple[str, ...] = ()
    tool: str = 'train'
    config: Any = DIGITS


def option(key: str, value: Any, message: str, **more: Any) -> Bad:
    return Bad(message, {key: value}, **more)


MODEL = 'model.'
ATTACK = 'model.train_attack.'
METHOD = 'model.method.'
CASES: dict[str, Bad] = {
    # --- the config ---
    'no config': Bad('no_such.py', config='no_such.py'),
    'no config in mmpretrain': Bad(
        'there is no config mmpretrain::no/such.py.*resnet18',
        config='mmpretrain::no/such.py',
    ),
    'recipe on features': Bad(
        'SimCLR learns without labels.*fine-tune',
        config='mmpretrain::simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py',
        words=('--recipe', 'm2at'),
    ),
    'recipe on several labels': Bad(
        'CSRAClsHead gives an image several labels.*LinearClsHead',
        config='mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py',
        words=('--recipe', 'm2at'),
    ),
    'recipe twice': Bad('already', words=('--recipe', 'm2at')),
    'fine-tuning from nothing': Bad(
        'load_from is empty.*load_from=CHECKPOINT',
        config=STOCK,
        words=('--recipe', 'm2at-finetune'),
        options={
            f'{part}_dataloader.dataset.{key}': value
            for part in ('train', 'val', 'test')
            for key, value in (('data_root', '{images}'), ('val_size', 10))
        },
    ),
    'negative eps': option(MODEL + 'threat_model.eps', -1, 'eps=-1'),
    'eps of 0-255': option(MODEL + 'threat_model.eps', 8, 'eps=8.*8/255'),
    'eps no number': option(MODEL + 'threat_model.eps', 'big', "eps='big'"),
    'norm': option(MODEL + 'threat_model.norm', 'l7', "norm='l7'.*linf"),
    'no steps': option(ATTACK + 'steps', 0, 'steps=0 must be.*at least 1'),
    'step size': option(ATTACK + 'step_size', '2', 'step_size=.*2'),
    'attack loss': option(ATTACK + 'loss', 'dlr', "loss='dlr'.*choose"),
    'bn mode': option(ATTACK + 'bn_mode', 'off', "bn_mode='off'.*choose"),
    'attack type': option(ATTACK + 'type', 'm2at_mm.PDG', 'm2at_mm.PDG'),
    'attack argument': option(ATTACK + 'step', 3, "argument 'step'"),
    'method type': option(METHOD + 'type', 'm2at_mm.M3AT', 'm2at_mm.M3AT'),
    'scale': option(METHOD + 'scale', -1, 'scale=-1'),
    'label share': option(METHOD + 'perturbed_label', 2, 'perturbed_label=2'),
    'mask': option(METHOD + 'mask', 'stripes', "mask='stripes'.*choose"),
    'mix_alpha': option(METHOD + 'mix_alpha', 0, 'mix_alpha=0'),
    'pairing': option(METHOD + 'pairing', 'all', "pairing='all'.*choose"),
    'smoothing': option(
        MODEL + 'label_smoothing', 1, 'label_smoothing=1 must be.*below 1'
    ),
    'name of an attack': option(
        MODEL + 'eval_attacks.worst.type', 'm2at_mm.PGD', 'another name'
    ),
    'save_best': option(
        'default_hooks.checkpoint.save_best',
        'robust/pgd7',
        "save_best='robust/pgd7' will never be reported.*pgd10",
    ),
    'guard': Bad(
        "action='pray'.*choose",
        {
            'default_hooks.guard.type': 'm2at_mm.CollapseGuardHook',
            'default_hooks.guard.action': 'pray',
        },
    ),
    'schedule': Bad("'threat_model.epz'", config='{schedule}'),
    'backbone': option(
        'model.classifier.backbone.type', 'ResNot', 'ResNot.*not in'
    ),
    # --- the data ---
    'no data': option(
        'train_dataloader.dataset.data_root',
        '/no/such/folder',
        '/no/such/folder',
        config=MAIN,
    ),
    'labels outside': option(
        'model.classifier.head.num_classes',
        5,
        "label [5-9], outside the model's classes 0 to 4.*num_classes",
    ),
    'unreadable image': Bad(
        r'0001\.jpg',
        {
            'train_dataloader.dataset.data_root': '{damaged}',
            'train_dataloader.dataset.val_size': 10,
        },
        config=MAIN,
    ),
    # --- checkpoints ---
    'no checkpoint': option('load_from', '{work}/x.pth', 'x.pth.*not a file'),
    'cut-off checkpoint': option(
        'load_from', '{cut}', 'cut.pth.*damaged.*another one'
    ),
    'another network': option(
        'load_from', '{foreign}', 'does not fit the model.*config'
    ),
    'resume from code': Bad('could run code', words=('--resume', '{code}')),
    # --- the command line ---
    'unknown recipe': Bad(
        "invalid choice: 'm3at'", words=('--recipe', 'm3at')
    ),
    'option without value': Bad(
        "--cfg-options: 'a'.*KEY=VALUE", words=('--cfg-options', 'a')
    ),
    'launcher without torchrun': Bad(
        'needs the environment that torchrun sets',
        words=('--launcher', 'pytorch'),
    ),
    'slurm without a GPU': Bad(
        "launcher='slurm' gives each process a GPU.*torchrun",
        words=('--launcher', 'slurm'),
    ),
    'amp over another wrapper': Bad(
        '--amp would replace.*AWPOptimWrapper',
        config='{awp}',
        words=('--amp',),
    ),
    'work dir is a file': Bad(
        'notes.txt. is a file.*folder',
        words=('--work-dir', '{work}/notes.txt'),
    ),
    'test without checkpoint': Bad(
        'x.pth.*not a file', words=('{work}/x.pth',), tool='test'
    ),
    'test of another network': Bad(
        'does not fit the model', words=('{foreign}',), tool='test'
    ),
    'unknown attack': Bad(
        "'pgd-20'|pgd-20",
        words=('{own}', '--attacks', 'pgd-20'),
        tool='test',
    ),
    'no samples': Bad(
        'num_samples=0', words=('{own}', '--num-samples', '0'), tool='test'
    ),
    'too many samples': Bad(
        'num_samples=99999',
        words=('{own}', '--num-samples', '99999'),
        tool='test',
    ),
    'radius on the command line': Bad(
        'eps.*8/255', words=('{own}', '--eps', '8'), tool='test'
    ),
    'picture of nothing': Bad(
        'x.pth',
        words=('{work}/x.pth', '--out', '{work}/m2at.png'),
        tool='visualize',
    ),
    'animation of rows': Bad(
        r'rows.gif.*--show rows is one picture.*\.png.*--show steps',
        words=('--out', '{work}/rows.gif'),
        tool='visualize',
    ),
    'picture of no kind': Bad(
        r'results.json is of no known kind.*png',
        words=('--show', 'masks', '--out', '{work}/results.json'),
        tool='visualize',
    ),
    'pictures at no interval': Bad(
        'interval=0 must be',
        {
            'default_hooks.pictures.type': (
                'm2at_mm.AdversarialVisualizationHook'
            ),
            'default_hooks.pictures.interval': 0,
        },
    ),
    'benchmark of no round': Bad(
        '--rounds=0 must be', words=('--rounds', '0'), tool='benchmark'
    ),
    'benchmark of an attack without steps': Bad(
        'train_attack=NFGSM has no number of steps',
        words=('--against', 'limit'),
        config=ROOT / 'configs' / 'n-fgsm_resnet18_cifar10.py',
        options={'train_dataloader.dataset.data_root': '{images}'},
        tool='benchmark',
    ),
    'validation of a missing checkpoint': Bad(
        'no_such.pth',
        words=('--validation', 'no_such.pth'),
        tool='benchmark',
    ),
    'compiled in no mode': Bad(
        "compile_mode='fast' is unknown", {ATTACK + 'compile_mode': 'fast'}
    ),
    'plan without runs': Bad(
        'plan.*runs',
        config='{plan}',
        words=('--work-dir', '{work}/runs', '--out', '{work}/results'),
        tool='compare',
    ),
}
assert len(CASES) >= 30


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files by the name that the cases use."""
    folder = tmp_path_factory.mktemp('files')
    for name in ('images', 'damaged'):
        for split in ('train', 'test'):
            for label, kind in enumerate(CIFAR10.METAINFO['classes']):
                place = folder / name / split / kind
                place.mkdir(parents=True)
                for number in range(4):
                    path = place / f'{number:04d}.jpg'
                    Image.new('RGB', (32, 32), (label, 0, number)).save(path)
    for path in (folder / 'damaged' / 'train').glob('*/0001.jpg'):
        path.write_bytes(path.read_bytes()[:60])
    foreign = dict(state_dict={'backbone.stem.weight': torch.zeros(2)})
    torch.save(foreign, folder / 'foreign.pth')
    whole = (folder / 'foreign.pth').read_bytes()
    (folder / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    (folder / 'code.pth').write_bytes(pickle.dumps(os.getcwd))
    (folder / 'plan.py').write_text('seeds = [0]\n')
    base = f'_base_ = [{str(DIGITS)!r}]\n'
    (folder / 'schedule.py').write_text(
        f'{base}default_hooks = dict(schedule=dict(\n'
        "    type='m2at_mm.AttackScheduleHook', schedules=[dict(\n"
        "        param='threat_model.epz', values=[0, 0.1],\n"
        '        milestones=[0, 1])]))\n'
    )
    (folder / 'awp.py').write_text(
        f"{base}optim_wrapper = dict(type='m2at_mm.AWPOptimWrapper')\n"
    )
    own = folder / 'own.pth'
    torch.save(dict(state_dict=_own_weights()), own)
    named = {path.stem: str(path) for path in folder.iterdir()}
    return named | dict(own=str(own))


def _own_weights() -> dict[str, Any]:
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from m2at_mm.registry import MODELS

    init_default_scope('mmpretrain')
    cfg = Config.fromfile(DIGITS)
    cfg.merge_from_dict({k: v for k, v in TINY.items() if 'model' in k})
    return MODELS.build(cfg.model).state_dict()


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """The work dir of an earlier training."""
    folder = tmp_path / 'work'
    folder.mkdir()
    for name in ('epoch_1.pth', 'results.json', 'notes.txt'):
        (folder / name).write_text(f'{name} of an earlier training')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    return folder


def run_in_fork(
    tool: str, words: list[str], output: Path
) -> tuple[int, float]:
    """Run a tool as a process that has imported PyTorch already.

    Returns:
        tuple: Its exit code and its seconds.
    """
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            file = os.open(output, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1), os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(1, 'w', closefd=False)
            path = str(ROOT / 'tools' / f'{tool}.py')
            sys.argv = [path, *words]
            runpy.run_path(path, run_name='__main__')
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                print(end.code)
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begin


@pytest.mark.parametrize('name', CASES)
def test_is_refused_at_once(
    name: str, files: dict[str, str], work_dir: Path, tmp_path: Path
) -> None:
    case = CASES[name]

    def fill(word: Any) -> str:
        return str(word).format(**files, work=work_dir)

    words = [fill(case.config), *map(fill, case.words)]
    if '--work-dir' not in words and case.tool in ('train', 'test'):
        words += ['--work-dir', str(work_dir)]
    if case.tool in ('train', 'test') and '--cfg-options' not in words:
        small = TINY if case.config == DIGITS else {}
        given = {k: fill(v) for k, v in (case.options or {}).items()}
        if small or given:
            words += cli_options(small, given)
    before = {p.name: p.read_bytes() for p in _files(work_dir)}
    output = tmp_path / 'output.txt'
    code, seconds = run_in_fork(case.tool, words, output)
    text = output.read_text('utf-8', errors='replace')
    assert code != 0, text[-2000:]
    # The last paragraph: not in a log before it or in a traceback.
    assert re.search(case.message, text[-1500:], re.DOTALL), text[-1500:]
    assert seconds < SECONDS
    assert 'Epoch(train)' not in text
    after = {p.name: p.read_bytes() for p in _files(work_dir)}
    assert {name: after.get(name) for name in before} == before


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]
