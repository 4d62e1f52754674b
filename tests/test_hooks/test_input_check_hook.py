from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner, small_digits_config
from mmengine.dataset import RepeatDataset, default_collate
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from tiny import classifier_cfg
from torch.utils.data import DataLoader, Subset

from m2at_mm.datasets import Digits

CROP: dict[str, Any] = dict(type='RandomCrop', crop_size=32, padding=4)
PACK = dict(type='PackInputs')


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that the Runner takes; what is wrong is found before any."""
    taken: list[str] = []
    stock = Runner.call_hook

    def noted(runner: Runner, name: str, **given: Any) -> None:
        if re.fullmatch('before_.*_iter', name):
            taken.append(name.split('_')[1])
        stock(runner, name, **given)

    monkeypatch.setattr(Runner, 'call_hook', noted)
    return taken


def build_runner(
    work_dir: Path, num_classes: int = 10, **settings: Any
) -> Runner:
    """One iteration of twenty digits."""
    return build_digits_runner(work_dir, 20, num_classes, **settings)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Our own checkpoint after one iteration."""
    work_dir = tmp_path_factory.mktemp('trained')
    build_runner(work_dir).train()
    return str(work_dir / 'epoch_1.pth')


START: dict[str, dict] = {'train': {}, 'resume': dict(resume=True), 'test': {}}


def start(how: str, runner: Runner) -> None:
    runner.test() if how == 'test' else runner.train()


Refused = Callable[..., None]


@pytest.fixture
def refused(steps: list[str]) -> Refused:
    """Function that checks that a run ends with an error before any step."""

    def check(runner: Runner, message: str, how: str = 'train') -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            start(how, runner)
        assert steps == []

    return check


# --- checkpoints -----------------------------------------------------------

DEEP = 'backbone.layer4.{}.conv1.weight'
HEADS = ('other-classes', 'missing', 'another-kind')
# What is changed, and how the error begins.
CHANGED = {
    'wider': r'does not fit the model: .*shape',
    'shallower': rf'1 of \d+ tensors .*{DEEP.format(1)}',
    'deeper': rf'1 of \d+ tensors .*{DEEP.format(2)}',
    **dict.fromkeys(HEADS, r'does not fit the model.*head\.'),
}


def save(path: Path, change: str = '', prefix: str = '') -> str:
    """A checkpoint of stock mmpretrain, of the same or another network."""
    width = 8 if change == 'wider' else 4
    cfg = classifier_cfg(
        100 if change == 'other-classes' else 10,
        base_channels=width,
        stem_channels=width,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        weights = MODELS.build(cfg).state_dict()
    if change == 'shallower':
        del weights[DEEP.format(1)]
    elif change == 'deeper':
        weights[DEEP.format(2)] = torch.zeros(1)
    elif change in ('missing', 'another-kind'):
        for key in ('head.fc.weight', 'head.fc.bias'):
            value = weights.pop(key)
            if change == 'another-kind':
                weights[key.replace('fc', 'layers.0')] = value
    weights = {prefix + key: value for key, value in weights.items()}
    torch.save(dict(meta={}, state_dict=weights), path)
    return str(path)


@pytest.mark.parametrize('how', START)
@pytest.mark.parametrize('change', CHANGED)
def test_checkpoint_of_another_network(
    how: str, change: str, tmp_path: Path, refused: Refused, steps: list[str]
) -> None:
    path = save(tmp_path / 'other.pth', change)
    runner = build_runner(tmp_path, load_from=path, **START[how])
    if how == 'train' and change in HEADS:  # fine-tuning
        runner.train()
        assert steps == ['train', 'val']
    else:
        refused(runner, CHANGED[change], how)


@pytest.mark.parametrize('how', START)
def test_own_checkpoint_passes(
    how: str, trained: str, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path, load_from=trained, **START[how])
    start(how, runner)
    # The one epoch of a resumed run is done.
    assert steps == dict(train=['train', 'val'], resume=[], test=['test'])[how]
    assert runner.epoch == (how != 'test')


@pytest.mark.parametrize('prefix', ['', 'module.'], ids=['plain', 'parallel'])
def test_stock_checkpoint_passes(prefix: str, tmp_path: Path) -> None:
    path = save(tmp_path / 'stock.pth', prefix=prefix)
    weights = torch.load(path)['state_dict']
    runner = build_runner(tmp_path, load_from=path)
    runner.test()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, weights[prefix + key])


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


DAMAGED = {
    'missing': 'is not a file',
    'cut off': 'damaged or none of PyTorch',
    'empty': 'damaged or none of PyTorch',
    'text': 'is damaged',
    'code': 'could run code',
    'tensor': 'holds a Tensor in place',
}


@pytest.mark.parametrize('how', START)
@pytest.mark.parametrize('kind', DAMAGED)
def test_checkpoint_that_cannot_be_read(
    kind: str, how: str, trained: str, tmp_path: Path, refused: Refused
) -> None:
    path, mark = tmp_path / 'given.pth', tmp_path / 'planted'
    whole = Path(trained).read_bytes()
    content: dict[str, bytes] = {
        'cut off': whole[: len(whole) // 2],
        'empty': b'',
        'text': b'<html>404</html>',
    }
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == 'code':
        torch.save(dict(state_dict=Planted(mark)), path)
    elif kind == 'tensor':
        torch.save(torch.zeros(3), path)
    runner = build_runner(tmp_path, load_from=str(path), **START[how])
    refused(runner, f'{path}.* {DAMAGED[kind]}', how)
    assert not mark.exists()


def test_a_config_in_a_checkpoint_is_not_run(
    trained: str, tmp_path: Path
) -> None:
    path, mark = tmp_path / 'given.pth', tmp_path / 'planted'
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['meta']['config'] = f'open({str(mark)!r}, "w").close()'
    torch.save(checkpoint, path)
    # The best checkpoint may have made room for another run's.
    keep = dict(default_hooks=dict(checkpoint=dict(published_keys=None)))
    runner = build_runner(tmp_path, load_from=str(path), **keep)
    runner._resume = True
    runner.train()
    assert not mark.exists()


# --- the weights that training begins with ---------------------------------


def init_from(path: str) -> dict[str, Any]:
    """Settings by which the backbone is initialised from a checkpoint."""
    init = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    return dict(model=dict(classifier=dict(backbone=dict(init_cfg=init))))


NEEDS = dict(default_hooks=dict(input_check=dict(needs_checkpoint=True)))


GIVEN: dict[str, Callable[[str], dict[str, Any]]] = {
    'load_from': lambda path: dict(load_from=path),
    'resume': lambda path: dict(
        load_from=path, resume=True, train_cfg=dict(max_epochs=2)
    ),
    'pretrained': init_from,
    'at home': lambda path: init_from(f'~/{Path(path).name}'),
    'by itself': lambda path: {},
}


@pytest.mark.parametrize('kind', GIVEN)
def test_weights_that_are_there(
    kind: str,
    trained: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[str],
) -> None:
    monkeypatch.setenv('HOME', str(Path(trained).parent))
    runner = build_runner(tmp_path, **NEEDS, **GIVEN[kind](trained))
    if kind == 'by itself':  # as classifiers of timm
        runner.cfg.model.classifier.pretrained = True
    runner.train()
    assert 'train' in steps


def test_testing_needs_no_pretrained_weights(
    trained: str, tmp_path: Path, steps: list[str]
) -> None:
    build_runner(tmp_path, load_from=trained, **init_from('')).test()
    assert 'test' in steps


# --- data and settings -----------------------------------------------------

CROPPED = dict(whole_batches=False, pipeline=[CROP, PACK])
TWICE = r"\['RandomCrop'\], and data_preprocessor.augment"


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            init_from('missing.pth'),
            r'model\.classifier\.backbone\.init_cfg\.checkpoint=.*missing',
        ),
        (NEEDS, 'load_from is empty'),
        (NEEDS | dict(resume=True), 'load_from is empty'),
        *(
            (
                dict(num_classes=5, data_preprocessor=dict(num_classes=known)),
                r'label 5, .*0 to 4 \(10 of 20 images\)',
            )
            for known in (None, 5, 10)
        ),
        *(
            (
                dict(default_hooks=dict(checkpoint=dict(save_best=figure))),
                rf"'{figure}' .*\['clean', 'worst', 'pgd10'\]",
            )
            for figure in ('robust/pgd20', 'robust/', 'robust/Clean')
        ),
        *(
            (
                dict(train_dataloader=dict(collate_fn=dict(type=name))),
                f"'{name}' joins samples, .*whole_batch_collate",
            )
            for name in ('default_collate', 'pseudo_collate')
        ),
        (dict(train_dataloader=dict(dataset=CROPPED)), TWICE),
    ],
)
def test_settings_that_do_not_fit(
    settings: dict, message: str, tmp_path: Path, refused: Refused
) -> None:
    refused(build_runner(tmp_path, **settings), message)


@pytest.mark.parametrize('how', ['train', 'test'])
def test_label_outside_the_classes_of_a_held_out_set(
    how: str, tmp_path: Path, refused: Refused
) -> None:
    runner = build_runner(tmp_path)
    loop = runner.test_loop if how == 'test' else runner.val_loop
    dataset = loop.dataloader.dataset
    labels = dataset.get_gt_labels()
    labels[7] = -1
    dataset.get_gt_labels = lambda: labels
    refused(runner, r'label -1, .*\(1 of 20 images\)', how)


@pytest.mark.parametrize('name', ['clean', 'worst', 'pgd10'])
def test_save_best_names_a_figure(name: str, tmp_path: Path) -> None:
    checkpoint = dict(save_best=f'robust/{name}')
    build_runner(tmp_path, default_hooks=dict(checkpoint=checkpoint)).train()
    assert (tmp_path / f'best_robust_{name}_epoch_1.pth').is_file()


NESTED = dict(type='RandomApply', transforms=[CROP], prob=0.5)


@pytest.mark.parametrize(
    ('num_classes', 'pipeline', 'message'),
    [
        (5, [PACK], r'Digits has label \d, .*0 to 4'),
        (10, [CROP, PACK], TWICE),
        (10, [NESTED, PACK], TWICE),
    ],
)
def test_inside_other_datasets(
    num_classes: int,
    pipeline: list,
    message: str,
    tmp_path: Path,
    refused: Refused,
) -> None:
    """See test_inside.py for the other wrappers."""
    runner = build_runner(tmp_path, num_classes)
    data = Digits(indices=20, pipeline=pipeline)
    runner._train_dataloader = DataLoader(RepeatDataset(data, times=2))
    refused(runner, message)


def test_whole_batches_of_a_choice_need_their_collate_function(
    tmp_path: Path, refused: Refused
) -> None:
    runner = build_runner(tmp_path)
    data = Digits(indices=20, pipeline=[PACK], whole_batches=True)
    runner._train_dataloader = DataLoader(
        Subset(data, range(20)), collate_fn=default_collate
    )
    refused(runner, 'Digits has whole_batches=True')


@pytest.mark.parametrize('robust', [False, True])
@pytest.mark.parametrize('checked', [False, True])
def test_several_views(
    robust: bool, checked: bool, trained: str, tmp_path: Path
) -> None:
    """The checkpoint loads; robust accuracy is not that of the first view."""
    cfg = small_digits_config(tmp_path, 8, 4)
    cfg.load_from = trained
    cfg.model = dict(type='mmpretrain.AverageClsScoreTTA', module=cfg.model)
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='TestTimeAug', transforms=[flips, [PACK]])
    ]
    cfg.test_dataloader.collate_fn = dict(type='default_collate')
    cfg.test_dataloader.dataset.whole_batches = False
    cfg.test_evaluator = [dict(type='Accuracy', topk=(1,))]
    if robust:
        cfg.test_evaluator.append(dict(type='m2at_mm.RobustAccuracy'))
    if not checked:
        cfg.default_hooks.pop('input_check')
    runner = Runner.from_cfg(cfg)
    if robust:
        with pytest.raises(ValueError, match=r'RobustAccuracy .* several'):
            runner.test()
    else:
        assert runner.test().keys() == {'accuracy/top1'}
