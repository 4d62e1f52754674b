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
from pytest import MonkeyPatch
from tiny import classifier_cfg
from torch.utils.data import DataLoader, Subset

from m2at_mm.datasets import Digits

CROP: dict[str, Any] = dict(type='RandomCrop', crop_size=32, padding=4)
PACK = dict(type='PackInputs')


START: dict[str, dict] = {'train': {}, 'resume': dict(resume=True), 'test': {}}
Run = Callable[..., Runner]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: MonkeyPatch) -> Run:
    """Function that runs an iteration of twenty digits, and notes the steps.

    What is ``refused`` with a message is so before any step.
    """

    def start(
        how: str = 'train',
        refused: str = '',
        change: Callable[[Runner], Any] = lambda _: None,
        **settings: Any,
    ) -> Runner:
        runner = build_digits_runner(tmp_path, 20, **START[how], **settings)
        change(runner)
        runner.steps = []
        go = runner.test if how == 'test' else runner.train
        with monkeypatch.context() as patch:
            patch.setattr(Runner, 'call_hook', noted)
            if refused:
                errors = (ValueError, FileNotFoundError)
                with pytest.raises(errors, match=refused):
                    go()
                assert runner.steps == []
            else:
                go()
        return runner

    stock = Runner.call_hook

    def noted(runner: Runner, name: str, **given: Any) -> None:
        if re.fullmatch('before_.*_iter', name):
            runner.steps.append(name.split('_')[1])
        stock(runner, name, **given)

    return start


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Our own checkpoint after one iteration."""
    work_dir = tmp_path_factory.mktemp('trained')
    build_digits_runner(work_dir, 20).train()
    return str(work_dir / 'epoch_1.pth')


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
    width, classes = 4 + 4 * (change == 'wider'), 10
    if change == 'other-classes':
        classes = 100
    cfg = classifier_cfg(classes, base_channels=width, stem_channels=width)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        weights = MODELS.build(cfg).state_dict()
    if change == 'shallower':
        del weights[DEEP.format(1)]
    elif change == 'deeper':
        weights[DEEP.format(2)] = torch.zeros(1)
    for key in ('head.fc.weight', 'head.fc.bias'):
        if change == 'another-kind':
            weights[key.replace('fc', 'layers.0')] = weights[key]
        if change in ('missing', 'another-kind'):
            del weights[key]
    weights = {prefix + key: value for key, value in weights.items()}
    torch.save(dict(meta={}, state_dict=weights), path)
    return str(path)


@pytest.mark.parametrize('how', START)
@pytest.mark.parametrize('change', CHANGED)
def test_checkpoint_of_another_network(
    how: str, change: str, tmp_path: Path, run: Run
) -> None:
    path = save(tmp_path / 'other.pth', change)
    if how == 'train' and change in HEADS:  # fine-tuning
        assert run(how, load_from=path).steps == ['train', 'val']
    else:
        run(how, CHANGED[change], load_from=path)


@pytest.mark.parametrize('how', START)
def test_own_checkpoint_passes(how: str, trained: str, run: Run) -> None:
    runner = run(how, load_from=trained)
    # The one epoch of a resumed run is done.
    steps = dict(train=['train', 'val'], resume=[], test=['test'])
    assert runner.steps == steps[how]
    assert runner.epoch == (how != 'test')


@pytest.mark.parametrize('prefix', ['', 'module.'], ids=['plain', 'parallel'])
def test_stock_checkpoint_passes(
    prefix: str, tmp_path: Path, run: Run
) -> None:
    path = save(tmp_path / 'stock.pth', prefix=prefix)
    weights = torch.load(path)['state_dict']
    for key, value in run('test', load_from=path).model.state_dict().items():
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
    kind: str, how: str, trained: str, tmp_path: Path, run: Run
) -> None:
    path, mark = tmp_path / 'given.pth', tmp_path / 'planted'
    whole = Path(trained).read_bytes()
    if kind == 'code':
        torch.save(dict(state_dict=Planted(mark)), path)
    elif kind == 'tensor':
        torch.save(torch.zeros(3), path)
    elif kind != 'missing':
        cut = whole[: len(whole) // 2] if kind == 'cut off' else b''
        path.write_bytes(b'<html>404</html>' if kind == 'text' else cut)
    run(how, f'{path}.* {DAMAGED[kind]}', load_from=str(path))
    assert not mark.exists()


def test_a_config_in_a_checkpoint_is_not_run(
    trained: str, tmp_path: Path, run: Run
) -> None:
    path, mark = tmp_path / 'given.pth', tmp_path / 'planted'
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['meta']['config'] = f'open({str(mark)!r}, "w").close()'
    torch.save(checkpoint, path)
    # The best checkpoint may have made room for another run's.
    keep = dict(checkpoint=dict(published_keys=None))
    run('resume', load_from=str(path), default_hooks=keep)
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
    # As classifiers of timm.
    'by itself': lambda path: dict(
        change=lambda runner: runner.cfg.model.classifier.update(
            pretrained=True
        )
    ),
}


@pytest.mark.parametrize('kind', GIVEN)
def test_weights_that_are_there(
    kind: str, trained: str, monkeypatch: MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv('HOME', str(Path(trained).parent))
    assert 'train' in run(**NEEDS, **GIVEN[kind](trained)).steps


def test_testing_needs_no_pretrained_weights(trained: str, run: Run) -> None:
    assert 'test' in run('test', load_from=trained, **init_from('')).steps


# --- data and settings -----------------------------------------------------

CROPPED = dict(whole_batches=False, pipeline=[CROP, PACK])
NESTED = dict(type='RandomApply', transforms=[CROP], prob=0.5)
TWICE = r"\['RandomCrop'\], and data_preprocessor.augment"


def loading(build: Callable[[], Any], **settings: Any) -> dict[str, Any]:
    def change(runner: Runner) -> None:
        runner._train_dataloader = DataLoader(build(), **settings)

    return dict(change=change)


def repeated(*pipeline: dict) -> dict[str, Any]:
    """See test_inside.py for the other wrappers."""
    return loading(
        lambda: RepeatDataset(Digits(indices=20, pipeline=[*pipeline]), 2)
    )


def _whole() -> Any:
    data = Digits(indices=20, pipeline=[PACK], whole_batches=True)
    return Subset(data, range(20))


def relabelled(how: str) -> dict[str, Any]:
    """A wrong label in a held-out set."""

    def change(runner: Runner) -> None:
        loop = runner.test_loop if how == 'test' else runner.val_loop
        dataset = loop.dataloader.dataset
        labels = dataset.get_gt_labels()
        labels[7] = -1
        dataset.get_gt_labels = lambda: labels

    return dict(how=how, change=change)


def saving(figure: str) -> dict[str, Any]:
    return dict(default_hooks=dict(checkpoint=dict(save_best=figure)))


def collating(name: str) -> dict[str, Any]:
    return dict(train_dataloader=dict(collate_fn=dict(type=name)))


MISSING = r'model\.classifier\.backbone\.init_cfg\.checkpoint=.*missing'
NO_FIGURES, KINDS = ('pgd20', '', 'Clean'), ('default', 'pseudo')
BEST = r".*\['clean', 'worst', 'pgd10'\]"
JOINS = 'joins samples, .*whole_batch_collate'
HAS_WHOLE = 'Digits has whole_batches=True'
LABEL_5 = r'label 5, .*0 to 4 \(10 of 20 images\)'
LABEL_MINUS_1 = r'label -1, .*\(1 of 20 images\)'
REFUSED: list[tuple[dict[str, Any], str]] = [
    (init_from('missing.pth'), MISSING),
    (NEEDS, 'load_from is empty'),
    (dict(NEEDS, how='resume'), 'load_from is empty'),
    *(
        (dict(num_classes=5, data_preprocessor=dict(num_classes=k)), LABEL_5)
        for k in (None, 5, 10)
    ),
    *((saving(f'robust/{k}'), f"'robust/{k}' {BEST}") for k in NO_FIGURES),
    *((collating(f'{k}_collate'), f"'{k}_collate' {JOINS}") for k in KINDS),
    (dict(train_dataloader=dict(dataset=CROPPED)), TWICE),
    (relabelled('train'), LABEL_MINUS_1),
    (relabelled('test'), LABEL_MINUS_1),
    (dict(repeated(PACK), num_classes=5), r'Digits has label \d, .*0 to 4'),
    (repeated(CROP, PACK), TWICE),
    (repeated(NESTED, PACK), TWICE),
    (loading(_whole, collate_fn=default_collate), HAS_WHOLE),
]


@pytest.mark.parametrize(('settings', 'message'), REFUSED)
def test_settings_that_do_not_fit(
    settings: dict, message: str, run: Run
) -> None:
    run(refused=message, **settings)


@pytest.mark.parametrize('name', ['clean', 'worst', 'pgd10'])
def test_save_best_names_a_figure(name: str, tmp_path: Path, run: Run) -> None:
    run(**saving(f'robust/{name}'))
    assert (tmp_path / f'best_robust_{name}_epoch_1.pth').is_file()


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
        del cfg.default_hooks.input_check
    runner = Runner.from_cfg(cfg)
    if robust:
        with pytest.raises(ValueError, match=r'RobustAccuracy .* several'):
            runner.test()
    else:
        assert runner.test().keys() == {'accuracy/top1'}
