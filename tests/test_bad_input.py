"""Wrong configs, data, checkpoints and command lines, at every script."""

import os
import pickle
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import make_folder
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tools_support import DIGITS, MAIN, ROOT, TINY, run_in_fork

from m2at_mm.registry import MODELS

CPU_SECONDS = 5.0
#: `--cfg-options` of a training of the digits, and the message each ends in.
OPTIONS = {
    'model.threat_model.eps=-1': 'eps=-1',
    'model.threat_model.eps=8': 'eps=8.*8/255',
    'model.threat_model.eps=big': "eps='big'",
    'model.threat_model.norm=l7': "norm='l7'.*linf",
    'model.train_attack.steps=0': 'steps=0 must be.*at least 1',
    'model.train_attack.step_size="2"': 'step_size=.*2',
    'model.train_attack.loss=dlr': "loss='dlr'.*choose",
    'model.train_attack.bn_mode=off': "bn_mode='off'.*choose",
    'model.train_attack.compile_mode=fast': "compile_mode='fast' is unknown",
    'model.train_attack.type=m2at_mm.PDG': 'm2at_mm.PDG',
    'model.train_attack.step=3': "argument 'step'",
    'model.method.type=m2at_mm.M3AT': 'm2at_mm.M3AT',
    'model.method.scale=-1': 'scale=-1',
    'model.method.perturbed_label=2': 'perturbed_label=2',
    'model.method.mask=stripes': "mask='stripes'.*choose",
    'model.method.mix_alpha=0': 'mix_alpha=0',
    'model.method.pairing=all': "pairing='all'.*choose",
    'model.label_smoothing=1': 'label_smoothing=1 must be.*below 1',
    'model.eval_attacks.worst.type=m2at_mm.PGD': 'another name',
    'model.classifier.backbone.type=ResNot': 'ResNot.*not in',
    'model.classifier.head.num_classes=5': "label [5-9], outside the model's "
    'classes 0 to 4.*num_classes',
    'default_hooks.checkpoint.save_best=robust/pgd7': "save_best='robust/pgd7"
    "' will never be reported.*pgd10",
    'default_hooks.guard.type=m2at_mm.CollapseGuardHook '
    'default_hooks.guard.action=pray': "action='pray'.*choose",
    'default_hooks.pictures.type=m2at_mm.AdversarialVisualizationHook '
    'default_hooks.pictures.interval=0': 'interval=0 must be',
    'load_from={work}/x.pth': 'x.pth.*not a file',
    'load_from={cut}': 'cut.pth.*damaged.*another one',
    'load_from={foreign}': 'does not fit the model.*config',
}
SETS = [f'{part}_dataloader.dataset' for part in ('train', 'val', 'test')]
ROOTS = ' '.join(f'{k}.data_root={{images}} {k}.val_size=10' for k in SETS)
#: Command lines; `{name}` is a file of the fixture or a config below.
COMMANDS = {
    'train no_such.py': 'no_such.py',
    'train mmpretrain::no/such.py': 'there is no config mmpretrain::no/such.py'
    '.*resnet18',
    'train mmpretrain::simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py '
    '--recipe m2at': 'SimCLR learns without labels.*fine-tune',
    'train mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py '
    '--recipe m2at': 'CSRAClsHead gives an image several labels.*LinearCls',
    'train {digits} --recipe m2at': 'already',
    f'train {{stock}} --recipe m2at-finetune --cfg-options {ROOTS}': 'load_fr'
    'om is empty.*load_from=CHECKPOINT',
    'train {schedule}': "'threat_model.epz'",
    'train {cifar} --cfg-options {none}': '/none',
    'train {cifar} --cfg-options train_dataloader.dataset.val_size=10 '
    'train_dataloader.dataset.data_root={damaged}': r'0001\.jpg',
    'train {digits} --resume {code}': 'could run code',
    'train {digits} --recipe m3at': "invalid choice: 'm3at'",
    'train {digits} --cfg-options a': "--cfg-options: 'a'.*KEY=VALUE",
    'train {digits} --launcher pytorch': 'needs the environment that torchrun '
    'sets',
    'train {digits} --launcher slurm': "launcher='slurm' gives each process a "
    'GPU.*torchrun',
    'train {awp} --amp': '--amp would replace.*AWPOptimWrapper',
    'train {digits} --work-dir {work}/notes.txt': (
        'notes.txt. is a file.*folder'
    ),
    'test {digits}': 'required: checkpoint',
    'test {digits} {work}/x.pth': 'x.pth.*not a file',
    'test {digits} {foreign}': 'does not fit the model',
    'test {digits} {own} --attacks pgd-20': 'pgd-20',
    'test {digits} {own} --num-samples 0': 'num_samples=0',
    'test {digits} {own} --num-samples 99999': 'num_samples=99999',
    'test {digits} {own} --eps 8': 'eps.*8/255',
    'visualize {digits} {work}/x.pth --out {work}/m2at.png': 'x.pth',
    'visualize {digits} --out {work}/rows.gif': (
        r'rows.gif.*--show rows is one picture.*\.png.*--show steps'
    ),
    'visualize {digits} --show masks --out {work}/results.json': (
        'results.json is of no known kind.*png'
    ),
    'benchmark {digits} --rounds 0': '--rounds=0 must be',
    # Before the data are read.
    'benchmark {n_fgsm} --cfg-options {none}': 'train_attack=NFGSM has no '
    'number of steps',
    'benchmark {digits} --validation no_such.pth': 'no_such.pth',
    'compare {plan} --work-dir {work}/runs --out {work}/results': 'plan.*runs',
    'report {work}/none --out page.html': 'none',
    'report . --out page.html': "'.' has no log of a training",
    'report {work} --out .': r"--out '\.' is a folder",
    'report {work} --out {work}/notes.txt/page.html': 'which is a file',
    'report {work} --out page.html --num-images 0': 'at least 1',
    'report {work} {work} --out page.html': 'given twice',
    'convert_checkpoint import {foreign} {own}': 'own.pth exists',
    'check_configs no/such.py': 'no config of mmpretrain has one.*no/such',
    'check_configs resnet18 --images /nowhere': '/nowhere has no folders',
    'check_resume {digits} --work-dir {work}': 'holds files.*empty',
}


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files by the name that the cases use."""
    folder = tmp_path_factory.mktemp('files')
    for name in ('images', 'damaged'):
        make_folder(folder / name, suffix='jpg')
    for path in (folder / 'damaged' / 'train').glob('*/0001.jpg'):
        path.write_bytes(path.read_bytes()[:60])
    foreign = dict(state_dict={'backbone.stem.weight': torch.zeros(2)})
    torch.save(foreign, folder / 'foreign.pth')
    whole = (folder / 'foreign.pth').read_bytes()
    (folder / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    (folder / 'code.pth').write_bytes(pickle.dumps(os.getcwd, 2))
    (folder / 'plan.py').write_text('seeds = [0]\n')
    base = f'_base_ = [{str(DIGITS)!r}]\n'
    schedule = "param='threat_model.epz', values=[0, 0.1], milestones=[0, 1]"
    (folder / 'schedule.py').write_text(
        f'{base}default_hooks = dict(schedule=dict('
        "type='m2at_mm.AttackScheduleHook', "
        f'schedules=[dict({schedule})]))'
    )
    wrapper = "optim_wrapper = dict(type='m2at_mm.AWPOptimWrapper')"
    (folder / 'awp.py').write_text(base + wrapper)
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(DIGITS)
    cfg.merge_from_dict({k: v for k, v in TINY.items() if 'model' in k})
    weights = MODELS.build(cfg.model).state_dict()
    torch.save(dict(state_dict=weights), folder / 'own.pth')
    return {path.stem: str(path) for path in folder.iterdir()} | dict(
        digits=str(DIGITS),
        cifar=str(MAIN),
        none='train_dataloader.dataset.data_root=/none',
        n_fgsm=str(ROOT / 'configs' / 'n-fgsm_resnet18_cifar10.py'),
        stock='mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    )


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """The work dir of an earlier training."""
    folder = tmp_path / 'work'
    folder.mkdir()
    for name in ('epoch_1.pth', 'results.json', 'notes.txt'):
        (folder / name).write_text(f'{name} of an earlier training')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    return folder


TRAIN = {f'train {{digits}} --cfg-options {k}': v for k, v in OPTIONS.items()}


@pytest.mark.parametrize(('command', 'message'), (TRAIN | COMMANDS).items())
def test_is_refused_at_once(
    command: str, message: str, files: Any, work_dir: Path, tmp_path: Path
) -> None:
    tool, *words = shlex.split(command.format(**files, work=work_dir))
    if tool in ('train', 'test'):
        if '--work-dir' not in words:
            words[1:1] = ['--work-dir', str(work_dir)]
        if words[0] == str(DIGITS):
            if '--cfg-options' not in words:
                words.append('--cfg-options')
            place = words.index('--cfg-options') + 1
            words[place:place] = [f'{k}={v}' for k, v in TINY.items()]
    before = _content(work_dir)
    code, out, err, seconds = run_in_fork(tool, words, tmp_path)
    assert code != 0, out
    assert re.search(message, err), err
    assert len(err.splitlines()) <= 3 and 'Traceback' not in out + err, err
    assert seconds < CPU_SECONDS
    assert 'Epoch(train)' not in out and not list(tmp_path.glob('*.html'))
    assert before.items() <= _content(work_dir).items()


def _content(folder: Path) -> dict[Path, bytes]:
    files = filter(Path.is_file, folder.iterdir())
    return {path: path.read_bytes() for path in files}
