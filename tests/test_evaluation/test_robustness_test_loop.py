"""The evaluation as the Runner's test loop, on any kind of classifier."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lock_holder import holder
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from quick_autoattack import quick_autoattack
from tiny import classifier_cfg
from tools_support import ROOT
from torch import nn

from m2at_mm.datasets import Digits
from m2at_mm.recipes import apply_recipe

LOSS = dict(type='CrossEntropyLoss', loss_weight=1.0)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_autoattack():
        yield


def _timm(folder: Path) -> dict[str, Any]:
    settings = dict(model_name='resnet10t', pretrained=False, num_classes=10)
    return dict(type='TimmClassifier', loss=LOSS, **settings)


def _hugging_face(folder: Path) -> dict[str, Any]:
    from transformers import ResNetConfig

    name = str(folder / 'hugging_face')
    sizes = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    config = ResNetConfig(num_labels=10, layer_type='basic', **sizes)
    config.save_pretrained(name)
    settings = dict(model_name=name, pretrained=False)
    return dict(type='HuggingFaceClassifier', loss=LOSS, **settings)


CLASSIFIERS = dict(mmpretrain=lambda folder: classifier_cfg(), timm=_timm)
CLASSIFIERS['hugging face'] = _hugging_face


def _config(model: dict, folder: Path, **settings: Any) -> Config:
    digits = Config.fromfile(ROOT / 'configs/_base_/datasets/digits.py')
    stock = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py')
    cfg = Config(dict(**stock.to_dict(), **digits.to_dict()))
    cfg.model = model
    cfg.default_scope = 'mmpretrain'
    cfg.val_dataloader = cfg.val_evaluator = None
    cfg.train_dataloader = None
    cfg = apply_recipe(cfg, 'standard')
    cfg.work_dir = str(folder / 'work')
    cfg.test_cfg = dict(
        type='m2at_mm.RobustnessTestLoop',
        attacks=['fgsm', 'apgd-ce'],
        num_samples=30,
        **settings,
    )
    return cfg


def _run(cfg: Config) -> tuple[dict[str, float], dict[str, Any]]:
    """The metrics, and the results in the work dir."""
    metrics = Runner.from_cfg(cfg).test()
    return metrics, json.loads(Path(cfg.work_dir, 'results.json').read_text())


@pytest.mark.parametrize('kind', CLASSIFIERS)
def test_any_classifier(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CLASSIFIERS[kind](tmp_path)
    cfg = _config(model, tmp_path)
    # A checkpoint as mmpretrain itself would have written it.
    plain = MMPRETRAIN_MODELS.build(dict(model, _scope_='mmpretrain'))
    path = tmp_path / 'stock.pth'
    torch.save(dict(state_dict=plain.state_dict(), meta={}), path)
    cfg.load_from = str(path)
    metrics, results = _run(cfg)
    assert metrics['robust/clean'] == results['clean']
    assert metrics['robust/worst'] == results['worst_case']
    assert results['num_samples'] == 30
    with np.load(tmp_path / 'work' / 'results.samples.npz') as samples:
        predicted, positions = samples['clean'], samples['index']
    assert results['class_counts'] == 10 * [3]
    expected = _predictions(plain, cfg, positions)
    assert predicted.tolist() == expected.tolist()


def _predictions(plain: nn.Module, cfg: Config, positions: Any) -> Any:
    """What the plain classifier says of the normalised test images."""
    dataset = Digits(split='test', pipeline=[dict(type='PackInputs')])
    images = [dataset[int(n)]['inputs'] for n in positions]
    given = (cfg.data_preprocessor[name] for name in ('mean', 'std'))
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in given)
    pixels = (torch.stack(images).float() - mean) / std
    with torch.no_grad():
        return plain.eval()(pixels, mode='tensor').argmax(1)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(eps=['8']), "eps='8' is above 1"),
        (dict(eps=['1.0']), "eps='1.0' is the whole range"),
        (dict(norm='l2'), 'give eps, too'),
        (dict(norm='l1', eps=['8/255']), "norm='l1' is unknown"),
        (dict(out='.'), 'is a folder: give the name of a file'),
    ],
    ids=str,
)
def test_wrong_settings(settings: dict, message: str, tmp_path: Path) -> None:
    cfg = _config(classifier_cfg(), tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).test()


def test_attacks_of_other_packages(tmp_path: Path) -> None:
    """Counted like ours; the wrong norm is found before any attack."""
    pytest.importorskip('torchattacks')
    torch.manual_seed(0)
    cfg = _config(classifier_cfg(), tmp_path)
    theirs = ['torchattacks.PGD', 'foolbox.LinfDeepFoolAttack']
    cfg.test_cfg.attacks = ['fgsm', *theirs]
    metrics, results = _run(cfg)
    assert [*results['attacks']] == ['fgsm', *theirs]
    with np.load(tmp_path / 'work' / 'results.samples.npz') as samples:
        label = samples['label']
        names = ['clean', *results['attacks'], 'second_opinion']
        correct = {name: samples[name] == label for name in names}
    for name in theirs:
        assert results['attacks'][name] == 100 * correct[name].mean()
        assert metrics[f'robust/{name}'] == results['attacks'][name]
    worst = np.all([*correct.values()], axis=0)
    assert results['worst_case'] == 100 * worst.mean()
    _, again = _run(cfg)
    assert again['attacks'] == results['attacks']
    cfg.test_cfg.update(attacks=['pgd20', 'foolbox.L2PGD'])
    with pytest.raises(ValueError, match=r'foolbox\.L2PGD does not .* linf'):
        Runner.from_cfg(cfg).test()


def test_plain_model_is_refused(tmp_path: Path) -> None:
    cfg = _config(classifier_cfg(), tmp_path)
    cfg.model = cfg.model.classifier
    cfg.data_preprocessor.pop('augment')  # mmpretrain's knows none
    with pytest.raises(TypeError, match=r'needs an m2at_mm\.Adversarial'):
        Runner.from_cfg(cfg).test()


def test_radii_files_and_a_runner_of_objects(tmp_path: Path) -> None:
    """It has the same results as a config; nothing of it is at hand."""
    torch.manual_seed(0)
    out, images = tmp_path / 'elsewhere.json', tmp_path / 'images'
    files = dict(out=str(out), adversarial_dir=str(images))
    radii = dict(eps=['4/255', '8/255', '4/255'])
    cfg = _config(classifier_cfg(), tmp_path, **files, **radii)
    by_config = Runner.from_cfg(cfg)
    expected = by_config.test()
    results = json.loads(out.read_text())
    assert results['threat_model']['eps'] == 8 / 255  # the config's own
    assert len(results['sweep']) == 2
    assert list(images.rglob('batch_00000.npz'))
    assert results['settings']['dataset']['type'] == 'm2at_mm.Digits'
    runner = Runner(
        model=by_config.model,
        work_dir=str(tmp_path / 'objects'),
        test_dataloader=by_config.test_dataloader,
        test_evaluator=[],
        test_cfg=dict(cfg.test_cfg, eps=None),
        default_scope='mmpretrain',
        experiment_name='objects',
    )
    assert not runner.cfg.get('model')
    assert runner.test() == expected


def test_two_evaluations_in_one_place_are_kept_apart(tmp_path: Path) -> None:
    with holder(tmp_path / 'work' / 'evaluation'):
        cfg = _config(classifier_cfg(), tmp_path)
        with pytest.raises(RuntimeError, match='in use by process'):
            Runner.from_cfg(cfg).test()
    assert not (tmp_path / 'work' / 'results.json').exists()


def test_random_transforms_are_noted_and_draw_once(tmp_path: Path) -> None:
    """At radius 0 each attack sees what the clean accuracy was measured on."""
    torch.manual_seed(0)
    cfg = _config(classifier_cfg(), tmp_path, eps=['0'])
    cfg.test_cfg.attacks = ['fgsm', 'pgd20']
    cutout = dict(type='Cutout', shape=24, prob=0.7)
    cfg.test_dataloader.dataset.pipeline = [cutout, dict(type='PackInputs')]
    _, results = _run(cfg)
    assert 'random transforms' in results['notes'][0]
    assert set(results['attacks'].values()) == {results['clean']}
