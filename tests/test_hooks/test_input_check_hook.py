from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner, log_of, small_digits_config
from mmengine.dataset import RepeatDataset, default_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from pytest import MonkeyPatch
from torch.utils.data import DataLoader, Subset
from wrong_checkpoints import CHANGED, DAMAGED, HEADS, damage, save

from m2at_mm.datasets import Digits

CROP: dict[str, Any] = dict(type='RandomCrop', crop_size=32, padding=4)
PACK = dict(type='PackInputs')


START: dict[str, dict] = {'train': {}, 'resume': dict(resume=True), 'test': {}}
Run = Callable[..., Runner]


class Steps(Hook):
    """Notes the steps that a Runner takes."""

    def _before_iter(self, runner: Any, *_: Any, mode: str, **__: Any) -> None:
        runner.steps.append(mode)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Function that runs an iteration of twenty digits, and notes the steps.

    What is ``refused`` with a message is so before any step.
    """

    def start(
        how: str = 'train', refused: str = '', change: Any = None, **cfg: Any
    ) -> Runner:
        runner = build_digits_runner(tmp_path, 20, **START[how], **cfg)
        runner.steps = []
        runner.register_hook(Steps())
        if change is not None:
            change(runner)
        errors = (ValueError, FileNotFoundError)
        with (
            pytest.raises(errors, match=refused) if refused else nullcontext()
        ):
            runner.test() if how == 'test' else runner.train()
        assert not (refused and runner.steps)
        return runner

    return start


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Our own checkpoint after one iteration."""
    work_dir = tmp_path_factory.mktemp('trained')
    build_digits_runner(work_dir, 20).train()
    return str(work_dir / 'epoch_1.pth')


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
def test_stock_checkpoint_loads(prefix: str, tmp_path: Path, run: Run) -> None:
    path = save(tmp_path / 'stock.pth', prefix=prefix)
    weights = torch.load(path)['state_dict']
    for key, value in run('test', load_from=path).model.state_dict().items():
        assert torch.equal(value, weights[prefix + key])


@pytest.mark.parametrize('how', START)
@pytest.mark.parametrize('kind', DAMAGED)
def test_checkpoint_that_cannot_be_read(
    kind: str, how: str, trained: str, tmp_path: Path, run: Run
) -> None:
    path, mark = tmp_path / 'given.pth', tmp_path / 'planted'
    damage(kind, Path(trained), path, mark)
    run(how, f'{path}.* {DAMAGED[kind]}', load_from=str(path))
    assert not mark.exists()


def test_saved_code_is_not_run(trained: str, tmp_path: Path, run: Run) -> None:
    path, mark = tmp_path / 'given.pth', tmp_path / 'planted'
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['meta']['config'] = f'open({str(mark)!r}, "w").close()'
    torch.save(checkpoint, path)
    # The best checkpoint may have made room for another run's.
    keep = dict(checkpoint=dict(published_keys=None))
    run('resume', load_from=str(path), default_hooks=keep)
    assert not mark.exists()


def init_from(path: str) -> dict[str, Any]:
    """Settings by which the backbone is initialised from a checkpoint."""
    init = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    return dict(model=dict(classifier=dict(backbone=dict(init_cfg=init))))


NEEDS = dict(default_hooks=dict(input_check=dict(needs_checkpoint=True)))


def by_itself(runner: Runner) -> None:
    """As classifiers of timm."""
    runner.cfg.model.classifier.pretrained = True


GIVEN: dict[str, Callable[[str], dict[str, Any]]] = {
    'load_from': lambda path: dict(load_from=path),
    'resume': lambda path: dict(
        load_from=path, resume=True, train_cfg=dict(max_epochs=2)
    ),
    'pretrained': init_from,
    'at home': lambda path: init_from(f'~/{Path(path).name}'),
    'by itself': lambda path: dict(change=by_itself),
    # Testing needs no pretrained weights.
    'tested': lambda path: dict(init_from(''), how='test', load_from=path),
}


@pytest.mark.parametrize('kind', GIVEN)
def test_weights_that_are_there(
    kind: str, trained: str, monkeypatch: MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv('HOME', str(Path(trained).parent))
    settings = GIVEN[kind](trained)
    assert settings.get('how', 'train') in run(**NEEDS, **settings).steps


CROPPED = dict(whole_batches=False, pipeline=[CROP, PACK])
NESTED = dict(type='RandomApply', transforms=[CROP], prob=0.5)
TWICE = r"\['RandomCrop'\], and data_preprocessor.augment"


def loading(build: Callable[[], Any], **settings: Any) -> dict[str, Any]:
    def change(runner: Runner) -> None:
        runner._train_dataloader = DataLoader(build(), **settings)

    return dict(change=change)


def repeated(*pipeline: dict) -> dict[str, Any]:
    """See test_parts.py for the other wrappers."""
    given = dict(indices=20, pipeline=[*pipeline])
    return loading(lambda: RepeatDataset(Digits(**given), 2))


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


def naming(**names: str) -> dict[str, Any]:
    """Names of the classes of a part's images, a letter each."""
    return {
        f'{part}_dataloader': dict(dataset=dict(metainfo=dict(classes=given)))
        for part, given in names.items()
    }


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
    (naming(val='0124356789'), "label 3 is '3' .* and '4' in the validation"),
    (naming(train='123456789'), r"label 0 is '1' .*give both .*\['1', '2'"),
]


@pytest.mark.parametrize(('settings', 'message'), REFUSED)
def test_unfit_settings(settings: dict, message: str, run: Run) -> None:
    run(refused=message, **settings)


@pytest.mark.parametrize(
    ('names', 'told'),
    [('0123456789', False), ('0123456789ab', True), ('01234', True)],
)
def test_outputs_without_a_class_are_told(
    names: str, told: bool, tmp_path: Path, run: Run
) -> None:
    run(**naming(train=names))
    text = f'names {len(names)} classes and the model has 10 outputs'
    assert (text in log_of(tmp_path)) == told


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
    views = dict(type='TestTimeAug', transforms=[flips, [PACK]])
    cfg.test_dataloader.dataset.pipeline = [views]
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
