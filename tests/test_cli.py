"""What the scripts share."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from digits_runner import small_digits_config
from mmengine.optim import OptimWrapper
from mmengine.visualization import LocalVisBackend
from tools_support import ROOT, clean_env
from torch.utils.data import DataLoader

from m2at_mm import cli
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.runner import start
from m2at_mm.version import __version__

STOCK = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


def _parse(*words: str) -> argparse.Namespace:
    parser = cli.Parser()
    cli.add_common_arguments(parser)
    return parser.parse_args(words)


def test_config_inside_an_installed_package() -> None:
    cfg = cli.load_config(STOCK)
    assert cfg.model.backbone.type == 'ResNet_CIFAR'
    assert '_base_' not in cfg
    cli.set_work_dir(cfg, _parse(STOCK), '_m2at')
    assert cfg.work_dir == 'work_dirs/resnet18_8xb16_cifar10_m2at'
    cli.set_work_dir(cfg, _parse(STOCK, '--work-dir', 'w'), '_m2at')
    assert cfg.work_dir == 'w'


def test_dataloader_defaults_follow_the_command_line() -> None:
    loader = dict(batch_size=2, num_workers=2)
    cfg = cli.Config(dict(train_dataloader=loader, val_dataloader=loader))
    cfg.test_dataloader = dict(collate_fn=list)
    # MMEngine marks what a base of mmpretrain gives.
    cfg.val_dataloader.collate_fn = dict(type='f', _scope_='mmpretrain')
    words = ('x.py', '--cfg-options', 'train_dataloader.num_workers=0')
    cli.merge_common_options(cfg, _parse(*words))
    assert not cfg.train_dataloader.persistent_workers
    assert cfg.val_dataloader.persistent_workers
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')
    assert cfg.val_dataloader.collate_fn == dict(type='f')
    assert cfg.test_dataloader.collate_fn is list


def test_every_default_hook_can_be_switched_off() -> None:
    hooks = dict(timer=dict(type='IterTimerHook'), ema=dict(type='EMAHook'))
    cfg = cli.Config(dict(default_hooks=hooks))
    off = ('default_hooks.timer=None', 'default_hooks.ema=None')
    cli.merge_common_options(cfg, _parse('x.py', '--cfg-options', *off))
    assert cfg.default_hooks == dict(timer=None)


@pytest.mark.parametrize(
    ('given', 'kept'),
    [
        (None, None),
        ({}, ['LocalVisBackend']),
        ({'vis_backends': None}, ['LocalVisBackend']),
        (['TensorboardVisBackend'], None),
        (['WandbVisBackend', 'mmengine.LocalVisBackend'], []),
        ([LocalVisBackend], []),
    ],
)
def test_scalars_are_kept_beside_other_backends(given: Any, kept: Any) -> None:
    before = given
    if isinstance(given, list):
        before = dict(vis_backends=[dict(type=kind) for kind in given])
        kept = [*given, *(['LocalVisBackend'] if kept is None else kept)]
    cfg = cli.Config(dict(visualizer=before))
    cli.keep_scalars(cfg)
    backends = (cfg.visualizer or {}).get('vis_backends')
    assert kept == (backends and [one['type'] for one in backends])


def test_origin_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'a config.py'])
    first, *lines = start.describe_origin().splitlines()
    told = dict(line.strip().split(': ', 1) for line in lines)
    assert first == 'Origin:' and told['m2at_mm'] == __version__
    assert told['command'] == "python tools/train.py 'a config.py'"
    assert re.match(r'[0-9a-f]{7}|v?\d|none|unknown', told['commit'])


@pytest.mark.parametrize('expected', [None, ':4096:8'])
def test_deterministic_sets_up_cublas(expected: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    built = mock.Mock()
    monkeypatch.setattr(start.Runner, 'from_cfg', lambda cfg: built)
    cfg = cli.Config(dict(randomness=dict(deterministic=bool(expected))))
    assert cli.build_runner(cfg, _parse('x.py')) is built
    assert os.environ.get('CUBLAS_WORKSPACE_CONFIG') == expected


SCALES = [
    (dict(), 'dynamic'),
    (dict(type='OptimWrapper'), 'dynamic'),
    (dict(type=OptimWrapper), 'dynamic'),
    (dict(type='mmengine.AmpOptimWrapper', dtype='float16'), 'dynamic'),
    (dict(dtype='bfloat16'), dict(enabled=False)),
    (dict(dtype=torch.bfloat16), dict(enabled=False)),
    (dict(dtype='bfloat16', loss_scale='dynamic'), 'dynamic'),
    (dict(loss_scale=512.0), 512.0),
]


@pytest.mark.parametrize(('given', 'scale'), SCALES)
def test_half_precision_scales_the_loss(given: dict, scale: Any) -> None:
    cfg = cli.Config(dict(optim_wrapper=given))
    cli.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == scale
    assert cfg.optim_wrapper.get('dtype') == given.get('dtype')


@pytest.mark.parametrize('kind', ['m2at_mm.AWPOptimWrapper', AWPOptimWrapper])
def test_amp_replaces_no_other_wrapper(kind: Any) -> None:
    cfg = cli.Config(dict(optim_wrapper=dict(type=kind)))
    with pytest.raises(ValueError, match=r'--amp would replace .*AWPOptim'):
        cli.use_amp(cfg)


def test_what_screen_and_log_tell(tmp_path: Path, capsys: Any) -> None:
    cfg = small_digits_config(tmp_path, 10, 10)
    runner = cli.build_runner(cfg, _parse('x.py'))
    cli.show_head(runner, 'training', 'train', attack=cfg.model.train_attack)
    runner.train()
    screen = capsys.readouterr().out.partition('Epoch(val)')[0]
    assert len(screen.splitlines()) < 30
    for told in ('Digits(split=train)', 'linf', 'PGD(steps=1', str(tmp_path)):
        assert told in screen
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text('utf-8')
    for logged in ('System environment:', 'Config:\n', 'Origin:\n', 'linf'):
        assert logged in text and (logged in screen) == (logged == 'linf')


def test_scripts_import_what_they_need() -> None:
    """Most tests run them in a process that has imported everything."""
    code = 'import runpy, sys; [*map(runpy.run_path, sys.argv[1:])]'
    tools = ROOT / 'tools'
    words = [sys.executable, '-c', code, *tools.glob('*.py')]
    env = clean_env() | dict(PYTHONPATH=f'{ROOT}:{tools}')
    subprocess.run(words, check=True, env=env)


def test_an_error_of_a_data_worker_is_its_last_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, 'argv', ['train.py'])
    data = DataLoader([1, 2], batch_size=1, num_workers=1, collate_fn=_broken)

    def read() -> None:
        next(iter(data))

    with pytest.raises(SystemExit) as ended:
        cli.run(read)
    said = str(ended.value.code).splitlines()[0]
    assert said == 'train.py: OSError: failed to load image: a b.jpg'


def _broken(_: Any) -> Any:
    raise OSError('failed to load image: a b.jpg')


def test_an_error_ends_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    main = mock.Mock(side_effect=ValueError('steps=0:\n  give more'))
    monkeypatch.setattr(sys, 'argv', ['x/train.py', '--debug'])
    with pytest.raises(ValueError, match='steps=0'):
        cli.run(main)
    sys.argv.pop()
    with pytest.raises(SystemExit) as error:
        cli.run(main)
    told = str(error.value)
    assert told.startswith('train.py: ValueError: steps=0: give more\n(')
    assert 'traceback' in told
