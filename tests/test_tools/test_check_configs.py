"""The check of mmpretrain's configs: as a user starts it, and its parts."""

import json
import os
import time
from pathlib import Path
from typing import Any

import check_configs
import pytest
import torch
from check_configs import to_markdown
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS
from tools_support import run_tool

from config_coverage.attempt import Outcome, _Check, try_config
from config_coverage.shrink import fit_network, input_sizes, narrow, use_folder
from m2at_mm.cli import load_config
from m2at_mm.methods import M2AT


def check(*words: Any, page: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """What it prints, and the outcomes by config."""
    output = run_tool('check_configs', *words, '--out', page)
    found = json.loads(page.with_suffix('.json').read_text())
    return output, {one['config']: one for one in found['configs']}


def test_page_and_figures_of_some_configs(tmp_path: Path) -> None:
    page = tmp_path / 'pages' / 'coverage.md'
    words = ('mobilenet-v3-small-050', 'arcface/', 'mobilenet_v2')
    output, found = check(*words, page=page)
    assert {name: one['status'] for name, one in found.items()} == {
        'arcface/resnet50-arcface_8xb32_inshop.py': 'refused',
        'mobilenet_v2/mobilenet-v2_8xb32_in1k.py': 'works',
        'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py': 'works',
    }
    refused, works, _ = found.values()
    assert 'retrieves images' in refused['note'] and works['note'] == ''
    assert (works['size'], works['model']) == (64, 'ImageClassifier')
    assert works['parameters'] == 3_504_872
    assert works['seconds'] > 0 and works['memory'] > 0.1
    assert '[3/3]' in output
    text = page.read_text()
    assert '2 of them with an ImageClassifier, of which 2 work' in text
    assert '| mobilenet_v2 | 1 |' in text
    assert 'mobilenet-v3-small-050 arcface/' in text  # the command


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was(tmp_path: Path) -> None:
    page = tmp_path / 'coverage.md'
    check('arcface/', 'csra/', page=page)
    figures = page.with_suffix('.json')
    found = json.loads(figures.read_text())
    first, second = found['configs']
    first['status'], second['note'] = 'fails', 'kept'
    figures.write_text(json.dumps(found))
    page.unlink()
    output, again = check('arcface/', 'csra/', page=page)
    assert output.count('[2/2]') == 1 and '[1/2]' not in output
    assert [one['status'] for one in again.values()] == ['refused'] * 2
    assert [one['note'] for one in again.values()][1] == 'kept'
    assert 'kept' in page.read_text()
    # Fewer configs don't take the others out of the file.
    assert check('csra/', page=page)[1].keys() == again.keys()
    # Those of another recipe are not mixed in.
    with pytest.raises(AssertionError, match='give another --out'):
        check('arcface/', '--recipe', 'pgd-at', page=page)


@pytest.mark.slow
def test_a_config_of_every_family(tmp_path: Path) -> None:
    _, found = check('--per-family', 1, page=tmp_path / 'coverage.md')
    assert len({name.split('/')[0] for name in found}) == len(found) > 80
    assert not any(one['status'] == 'fails' for one in found.values())


def stock(name: str) -> Config:
    return load_config(f'mmpretrain::{name}.py')


SIZES = [
    ('resnet/resnet18_8xb16_cifar10', [32]),
    ('lenet/lenet5_mnist', [32]),
    ('resnet/resnet50_8xb32_in1k', [64, 128, 224]),
    ('inception_v3/inception-v3_8xb32_in1k', [64, 128, 299]),
]


@pytest.mark.parametrize(('name', 'sizes'), SIZES)
def test_sizes_end_with_the_networks_own(name: str, sizes: list[int]) -> None:
    assert input_sizes(stock(name)) == sizes


def test_images_come_from_the_folder_through_the_configs_transforms() -> None:
    cfg = stock('swin_transformer/swin-tiny_16xb64_in1k')
    before = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    use_folder(cfg, Path('/pictures'), 64, 4)
    train, val = (cfg[f'{n}_dataloader'].dataset for n in ('train', 'val'))
    for dataset, expected in ((train, ('train', 8)), (val, ('test', 4))):
        assert dataset.data_root == '/pictures'
        assert (dataset.data_prefix, dataset.indices) == expected
    pipeline = {t.type: t for t in train.pipeline}
    assert [*pipeline] == before
    assert pipeline['RandomResizedCrop'].scale == 64
    assert pipeline['RandAugment'].magnitude_level == 9  # no size


def test_network_learns_its_input_size_also_inside_an_adapter() -> None:
    lora = 'vision_transformer/vit-base-p16_8xb64-lora_in1k-384px'
    names = ('deit/deit-tiny_4xb256_in1k', lora, 'lenet/lenet5_mnist')
    plain, adapted, without = (stock(name).model for name in names)
    for model in (plain, adapted, without):
        fit_network(model, 64)
    assert plain.backbone.img_size == adapted.backbone.module.img_size == 64
    assert 'img_size' not in without.backbone


NARROWED = [
    (dict(type='VisionTransformer', arch='deit-tiny'), [2]),
    (dict(type='VisionTransformer', arch='deit-t', out_indices=[11]), [2]),
    (dict(type='ConvNeXt', arch='atto'), [2, 2, 2, 2]),
    (dict(type='MobileNetV2'), None),  # names no depth
]


@pytest.mark.parametrize(('backbone', 'depths'), NARROWED)
def test_narrowed_networks(backbone: Any, depths: list[int] | None) -> None:
    classifier = ConfigDict(backbone=dict(backbone))
    if depths is None:
        assert narrow(classifier) is None and classifier.backbone == backbone
        return
    assert narrow(classifier) == '2 blocks per stage'
    less, whole = map(MODELS.build, (classifier.backbone, backbone))
    stages = getattr(less, 'stages', None) or [less.layers]
    assert [len(stage) for stage in stages] == depths
    sizes = [sum(map(torch.numel, m.parameters())) for m in (less, whole)]
    assert sizes[0] < 0.8 * sizes[1]


BROKEN = [
    ('levit/deploy/levit-128s_8xb256_in1k', 'switch_to_dep'),
    ('byol/benchmarks/mask-rcnn_r50-c4_ms-1x_coco', 'loaded'),
    # Not where it is installed.
    ('replknet/replknet-31B_32xb64_in1k', 'in mmpretrain/.'),
]


@pytest.mark.parametrize(('config', 'note'), BROKEN)
def test_mmpretrain_fails(config: str, note: str, cifar10_root: Path) -> None:
    outcome = try_config(f'{config}.py', 'm2at', cifar10_root)
    assert outcome.status == 'upstream' and note in outcome.note


def test_broken_by_recipe_fails(cifar10_root: Path, monkeypatch: Any) -> None:
    def broken(*args: object) -> None:
        raise IndexError('no such patch')

    monkeypatch.setattr(M2AT, 'loss', broken)
    name = 'resnet/resnet18_8xb16_cifar10.py'
    outcome = try_config(name, 'm2at', cifar10_root)
    assert outcome.status == 'fails'
    assert outcome.note.startswith('IndexError: no such patch (test_check_con')


PROBLEMS = [
    (dict(losses=[1.0]), True, '1 iterations were made'),
    (dict(losses=[1.0, float('nan')]), True, 'nan'),
    (dict(changed=False), True, 'no weight was changed'),
    (dict(metrics=None), True, 'there was no validation'),
    (dict(metrics={'top1': 0.0}), True, 'top1'),
    (dict(metrics={'top1': 0.0}), False, 'None'),
    ({}, True, 'None'),
]


@pytest.mark.parametrize(('changed', 'adversarial', 'problem'), PROBLEMS)
def test_problem_told(changed: Any, adversarial: bool, problem: str) -> None:
    check = _Check()
    check.losses, check.metrics = [1.0, 1.0], {'robust/worst': 0.0}
    check.changed = True
    vars(check).update(changed)
    assert problem in str(check.problem(True, adversarial))


def test_attempts_run_apart_and_within_time(monkeypatch: Any) -> None:
    def pretended(config: str, recipe: str, images: Path) -> Outcome:
        if config == 'dies':
            os._exit(3)
        time.sleep(dict(hangs=60.0, slow=0.3).get(config, 0))
        return Outcome(config, recipe, 'works', note=str(os.getpid()))

    monkeypatch.setattr(check_configs, 'try_config', pretended)
    configs = ['slow', 'dies', 'hangs', 'fast']
    start = time.perf_counter()
    found = list(check_configs.run_all(configs, 'm2at', Path(), seconds=3))
    assert time.perf_counter() - start < 30
    assert [one.config for one in found] == configs
    slow, dies, hangs, fast = found
    assert slow.status == fast.status == 'works'
    assert dies.status == hangs.status == 'fails'
    assert 'exit code 3' in dies.note and 'within 3 s' in hangs.note
    assert len({slow.note, fast.note, str(os.getpid())}) == 3


OUTCOMES = [
    Outcome('resnet/a.py', '', 'works'),
    Outcome('resnet/b.py', '', 'works', 'float32'),
    Outcome('vgg/c.py', '', 'refused', 'several labels'),
    Outcome('vgg/d.py', '', 'refused', 'several labels'),
    Outcome('vit/e.py', '', 'fails', 'IndexError'),
]


def test_counts_and_reasons() -> None:
    lines = to_markdown(OUTCOMES, '# Coverage').splitlines()
    assert lines[0] == '# Coverage'
    assert [line.split('|')[2].strip() for line in lines[4:8]] == [*'2201']
    assert '| resnet | 2 |  |  |  |' in lines
    assert '| vgg |  | 2 |  |  |' in lines
    assert '| vit |  |  |  | 1 |' in lines
    at = lines.index('- several labels:')
    assert lines[at + 1 : at + 3] == ['    - `vgg/c.py`', '    - `vgg/d.py`']
    assert '- IndexError:' in lines
    assert '- `resnet/b.py`: float32' in lines
    assert not any(line.startswith('## Upstream') for line in lines)
