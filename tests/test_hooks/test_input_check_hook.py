from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner, small_digits_config
from mmengine.dataset import (
    ClassBalancedDataset,
    Compose,
    ConcatDataset,
    RepeatDataset,
    default_collate,
)
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from mmpretrain.registry import DATASETS, MODELS
from tiny import classifier_cfg
from torch.utils.data import DataLoader, Subset

from m2at_mm.model_wrappers import AdversarialClassifier

# What may be wrong is found before any of these runs.
STEPS = ('train_step', 'val_step', 'test_step')


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the steps that the Runner takes."""
    taken: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        step = getattr(AdversarialClassifier, name)

        def call(model: AdversarialClassifier, *args: Any, **kw: Any) -> Any:
            taken.append(name)
            return step(model, *args, **kw)

        return call

    for name in STEPS:
        monkeypatch.setattr(AdversarialClassifier, name, counted(name))
    return taken


def build_runner(
    work_dir: Path, num_classes: int = 10, **settings: Any
) -> Runner:
    """One iteration of twenty digits."""
    return build_digits_runner(work_dir, 20, num_classes, **settings)


def save(path: Path, prefix: str = '', **classifier: Any) -> str:
    """The checkpoint of a stock mmpretrain classifier, never trained."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        stock = MODELS.build(classifier_cfg(**classifier))
    weights = {prefix + key: v for key, v in stock.state_dict().items()}
    torch.save(dict(meta={}, state_dict=weights), path)
    return str(path)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Our own checkpoint after one iteration."""
    work_dir = tmp_path_factory.mktemp('trained')
    build_runner(work_dir).train()
    return str(work_dir / 'epoch_1.pth')


START = {
    'load_from': lambda path: dict(load_from=path),
    'resume': lambda path: dict(load_from=path, resume=True),
    'test': lambda path: dict(load_from=path),
}


def start(how: str, runner: Runner) -> None:
    runner.test() if how == 'test' else runner.train()


# --- checkpoints -----------------------------------------------------------


@pytest.mark.parametrize('how', START)
def test_checkpoint_of_a_wider_network(
    how: str, tmp_path: Path, steps: list[str]
) -> None:
    path = save(tmp_path / 'wide.pth', base_channels=8, stem_channels=8)
    runner = build_runner(tmp_path, **START[how](path))

    with pytest.raises(ValueError, match=r'does not fit the model: .*shape'):
        start(how, runner)

    assert steps == []


@pytest.mark.parametrize('how', START)
@pytest.mark.parametrize('change', ['missing', 'superfluous'])
def test_checkpoint_of_another_depth(
    how: str, change: str, tmp_path: Path, steps: list[str]
) -> None:
    path = save(tmp_path / 'other.pth')
    checkpoint = torch.load(path)
    weights = checkpoint['state_dict']
    if change == 'missing':
        key = 'backbone.layer4.1.conv2.weight'
        del weights[key]
    else:
        key = 'backbone.layer4.2.conv1.weight'
        weights[key] = torch.zeros(1)
    torch.save(checkpoint, path)
    runner = build_runner(tmp_path, **START[how](path))

    with pytest.raises(ValueError, match=rf'1 of \d+ tensors .*{key}'):
        start(how, runner)

    assert steps == []


@pytest.mark.parametrize('how', START)
def test_own_checkpoint_passes(
    how: str, trained: str, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path, **START[how](trained))

    start(how, runner)

    expected = {
        'load_from': ['train_step', 'val_step'],
        'resume': [],  # the one epoch is done
        'test': ['test_step'],
    }
    assert steps == expected[how]
    assert runner.epoch == (0 if how == 'test' else 1)


@pytest.mark.parametrize('prefix', ['', 'module.'], ids=['plain', 'parallel'])
def test_stock_checkpoint_passes(
    prefix: str, tmp_path: Path, steps: list[str]
) -> None:
    path = save(tmp_path / 'stock.pth', prefix)
    weights = torch.load(path)['state_dict']
    runner = build_runner(tmp_path, load_from=path)

    runner.test()

    assert steps == ['test_step']
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, weights[prefix + key])


@pytest.mark.parametrize('head', ['other-classes', 'missing', 'another-kind'])
def test_head_may_differ_for_fine_tuning(
    head: str, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path, load_from=save_head(tmp_path, head))

    runner.train()

    assert steps == ['train_step', 'val_step']


@pytest.mark.parametrize('head', ['other-classes', 'missing', 'another-kind'])
@pytest.mark.parametrize('how', ['resume', 'test'])
def test_head_may_not_differ_otherwise(
    how: str, head: str, tmp_path: Path, steps: list[str]
) -> None:
    path = save_head(tmp_path, head)
    runner = build_runner(tmp_path, **START[how](path))

    with pytest.raises(ValueError, match=r'does not fit the model.*head\.'):
        start(how, runner)

    assert steps == []


def save_head(folder: Path, head: str) -> str:
    """A checkpoint that fits up to its head."""
    classes = 100 if head == 'other-classes' else 10
    path = save(folder / 'head.pth', num_classes=classes)
    checkpoint = torch.load(path)
    weights = checkpoint['state_dict']
    if head != 'other-classes':
        for key in ('head.fc.weight', 'head.fc.bias'):
            value = weights.pop(key)
            if head == 'another-kind':
                weights[key.replace('fc', 'layers.0')] = value
    torch.save(checkpoint, path)
    return path


# --- labels ----------------------------------------------------------------


@pytest.mark.parametrize('preprocessor_classes', [None, 5, 10])
@pytest.mark.parametrize('how', ['train', 'test'])
def test_label_outside_the_classes(
    how: str,
    preprocessor_classes: int | None,
    tmp_path: Path,
    steps: list[str],
) -> None:
    runner = build_runner(
        tmp_path,
        num_classes=5,
        data_preprocessor=dict(num_classes=preprocessor_classes),
    )

    with pytest.raises(
        ValueError, match=r'Digits has label 5, .*0 to 4 \(10 of 20 images\)'
    ):
        start(how, runner)

    assert steps == []


def test_label_outside_the_classes_in_validation(
    tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path)
    dataset = runner.val_loop.dataloader.dataset
    labels = dataset.get_gt_labels()
    labels[7] = -1
    dataset.get_gt_labels = lambda: labels

    with pytest.raises(ValueError, match=r'label -1, .*\(1 of 20 images\)'):
        runner.train()

    assert steps == []


# --- the figure that the best checkpoint is chosen by ----------------------


@pytest.mark.parametrize(
    'figure', ['robust/pgd20', 'robust/', 'robust/Clean'], ids=str
)
def test_save_best_names_no_attack(
    figure: str, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(
        tmp_path, default_hooks=dict(checkpoint=dict(save_best=figure))
    )

    with pytest.raises(
        ValueError, match=rf"'{figure}' .*\['clean', 'worst', 'pgd10'\]"
    ):
        runner.train()

    assert steps == []


@pytest.mark.parametrize('name', ['clean', 'worst', 'pgd10'])
def test_save_best_names_a_figure(name: str, tmp_path: Path) -> None:
    checkpoint = dict(save_best=f'robust/{name}')

    build_runner(tmp_path, default_hooks=dict(checkpoint=checkpoint)).train()

    best = list(tmp_path.glob(f'best_robust_{name}_epoch_1.pth'))
    assert len(best) == 1


# --- the weights that training begins with ---------------------------------


def test_pretrained_weights_that_are_not_there(
    tmp_path: Path, steps: list[str]
) -> None:
    missing = tmp_path / 'missing.pth'
    init = dict(type='Pretrained', checkpoint=str(missing))
    runner = build_runner(
        tmp_path, model=dict(classifier=dict(backbone=dict(init_cfg=init)))
    )

    with pytest.raises(
        FileNotFoundError,
        match=r'model\.classifier\.backbone\.init_cfg\.checkpoint=.*missing',
    ):
        runner.train()

    assert steps == []


def needing_checkpoint(work_dir: Path, **settings: Any) -> Runner:
    check = dict(input_check=dict(needs_checkpoint=True))
    return build_runner(work_dir, default_hooks=check, **settings)


def test_fine_tuning_from_nothing(tmp_path: Path, steps: list[str]) -> None:
    with pytest.raises(ValueError, match='load_from is empty'):
        needing_checkpoint(tmp_path).train()
    assert steps == []


def test_fine_tuning_resumed_from_nothing(
    tmp_path: Path, steps: list[str]
) -> None:
    with pytest.raises(ValueError, match='load_from is empty'):
        needing_checkpoint(tmp_path, resume=True).train()
    assert steps == []


def test_fine_tuning_a_classifier_that_loads_by_itself(tmp_path: Path) -> None:
    runner = needing_checkpoint(tmp_path)
    runner.cfg.model.classifier.pretrained = True
    runner.train()


def test_pretrained_weights_at_home(
    trained: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[str],
) -> None:
    monkeypatch.setenv('HOME', str(Path(trained).parent))
    init = dict(
        type='Pretrained',
        checkpoint=f'~/{Path(trained).name}',
        prefix='backbone.',
    )
    build_runner(
        tmp_path, model=dict(classifier=dict(backbone=dict(init_cfg=init)))
    ).train()
    assert 'train_step' in steps


@pytest.mark.parametrize('how', ['load_from', 'resume'])
def test_fine_tuning_from_a_checkpoint(
    how: str, trained: str, tmp_path: Path, steps: list[str]
) -> None:
    settings = START[how](trained)
    settings['train_cfg'] = dict(max_epochs=2)
    needing_checkpoint(tmp_path, **settings).train()
    assert 'train_step' in steps


def test_fine_tuning_from_pretrained_weights(
    trained: str, tmp_path: Path, steps: list[str]
) -> None:
    init = dict(type='Pretrained', checkpoint=trained, prefix='backbone.')
    needing_checkpoint(
        tmp_path, model=dict(classifier=dict(backbone=dict(init_cfg=init)))
    ).train()
    assert 'train_step' in steps


def test_testing_needs_no_pretrained_weights(
    trained: str, tmp_path: Path, steps: list[str]
) -> None:
    init = dict(type='Pretrained', checkpoint='')
    build_runner(
        tmp_path,
        load_from=trained,
        model=dict(classifier=dict(backbone=dict(init_cfg=init))),
    ).test()
    assert 'test_step' in steps


class Planted:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize('how', ['train', 'resume', 'test'])
@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('missing', 'is not a file'),
        ('cut off', 'damaged or none of PyTorch'),
        ('empty', 'damaged or none of PyTorch'),
        ('text', 'is damaged'),
        ('code', 'could run code'),
        ('tensor', 'holds a Tensor in place'),
    ],
)
def test_checkpoint_that_cannot_be_read(
    kind: str,
    message: str,
    how: str,
    trained: str,
    tmp_path: Path,
    steps: list[str],
) -> None:
    path = tmp_path / 'given.pth'
    mark = tmp_path / 'planted'
    whole = Path(trained).read_bytes()
    if kind == 'cut off':
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('<html>404</html>')
    elif kind == 'code':
        torch.save(dict(state_dict=Planted(mark)), path)
    elif kind == 'tensor':
        torch.save(torch.zeros(3), path)
    runner = build_runner(tmp_path, load_from=str(path))
    with pytest.raises(
        (ValueError, FileNotFoundError), match=message
    ) as error:
        start(how, runner)
    assert str(path) in str(error.value)
    assert steps == [] and not mark.exists()


def test_a_config_in_a_checkpoint_is_not_run(
    trained: str, tmp_path: Path
) -> None:
    mark = tmp_path / 'planted'
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['meta']['config'] = f'open({str(mark)!r}, "w").close()'
    path = tmp_path / 'given.pth'
    torch.save(checkpoint, path)
    runner = build_runner(
        tmp_path,
        load_from=str(path),
        # The best checkpoint may have made room for another run's.
        default_hooks=dict(checkpoint=dict(published_keys=None)),
    )
    runner._resume = True
    runner.train()
    assert not mark.exists()


@pytest.mark.parametrize('name', ['default_collate', 'pseudo_collate'])
def test_whole_batches_need_their_collate_function(
    name: str, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(
        tmp_path, train_dataloader=dict(collate_fn=dict(type=name))
    )
    with pytest.raises(
        ValueError, match=f"'{name}' joins samples, .*whole_batch_collate"
    ):
        runner.train()
    assert not steps


def test_images_are_cropped_by_one_of_two(
    tmp_path: Path, steps: list[str]
) -> None:
    pipeline = [
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='PackInputs'),
    ]
    runner = build_runner(
        tmp_path,
        train_dataloader=dict(
            dataset=dict(whole_batches=False, pipeline=pipeline)
        ),
        data_preprocessor=dict(augment=dict(crop_padding=4)),
    )
    with pytest.raises(
        ValueError, match=r"\['RandomCrop'\], and data_preprocessor.augment"
    ):
        runner.train()
    assert not steps


# --- inside other datasets, and behind several views -------------------------

INSIDE: dict[str, Callable[[Any], Any]] = {
    'repeat': lambda data: RepeatDataset(data, times=2),
    'concatenate': lambda data: ConcatDataset([data]),
    'balance': lambda data: ClassBalancedDataset(data, oversample_thr=1e-3),
    'choose': lambda data: Subset(data, range(20)),
}


def put_inside(runner: Runner, wrapper: str) -> Any:
    """Train on the runner's dataset inside of another one; the inner one."""
    loader = runner._train_dataloader
    cfg = dict(loader.dataset, whole_batches=False)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        if wrapper == 'fold':  # it takes nothing but a config
            outer: Any = KFoldDataset(cfg, num_splits=2)
            inner = outer.dataset
        else:
            inner = DATASETS.build(cfg)
            outer = INSIDE[wrapper](inner)
    runner._train_dataloader = DataLoader(
        outer, batch_size=4, collate_fn=default_collate
    )
    return inner


@pytest.mark.parametrize('wrapper', [*INSIDE, 'fold'])
def test_labels_inside_other_datasets(
    wrapper: str, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path, num_classes=5)
    put_inside(runner, wrapper)
    with pytest.raises(ValueError, match=r'Digits has label \d, .*0 to 4'):
        runner.train()
    assert steps == []


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('wrapper', [*INSIDE, 'fold'])
def test_crops_inside_other_datasets(
    wrapper: str, nested: bool, tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path)
    inner = put_inside(runner, wrapper)
    crop: dict[str, Any] = dict(type='RandomCrop', crop_size=32, padding=4)
    if nested:
        crop = dict(type='RandomApply', transforms=[crop], prob=0.5)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inner.pipeline = Compose([crop, dict(type='PackInputs')])
    with pytest.raises(ValueError, match=r"\['RandomCrop'\], and data_prepro"):
        runner.train()
    assert steps == []


def test_whole_batches_of_a_choice_need_their_collate_function(
    tmp_path: Path, steps: list[str]
) -> None:
    runner = build_runner(tmp_path)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inner = DATASETS.build(runner._train_dataloader.dataset)
    runner._train_dataloader = DataLoader(
        Subset(inner, range(8)), batch_size=4, collate_fn=default_collate
    )
    with pytest.raises(ValueError, match='Digits has whole_batches=True'):
        runner.train()
    assert steps == []


@pytest.mark.parametrize('robust', [False, True])
@pytest.mark.parametrize('checked', [False, True])
def test_several_views(
    robust: bool, checked: bool, trained: str, tmp_path: Path
) -> None:
    """The checkpoint loads; robust accuracy is not that of the first view."""
    cfg = small_digits_config(tmp_path, 8, 4)
    cfg.load_from = trained
    cfg.model = dict(type='mmpretrain.AverageClsScoreTTA', module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = [
        dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
                [dict(type='PackInputs')],
            ],
        )
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
