"""What the tools share."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.optim import OptimWrapper

from m2at_mm import cli
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.version import __version__


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_common_arguments(parser)
    return parser.parse_args(words)


def test_config_inside_an_installed_package_is_found() -> None:
    cfg = cli.load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    assert cfg.model.backbone.type == 'ResNet_CIFAR'
    assert '_base_' not in cfg


def test_missing_package_config_is_named() -> None:
    with pytest.raises(FileNotFoundError, match='mmpretrain::no'):
        cli.load_config('mmpretrain::no/such.py')


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ([], 'work_dirs/x_m2at'),
        (['--work-dir', 'w'], 'w'),
    ],
)
def test_work_dir(words: list[str], expected: str) -> None:
    args = _parse('mmpretrain::resnet/x.py', *words)
    cfg = cli.Config(dict())
    cli.set_work_dir(cfg, args, '_m2at')
    assert cfg.work_dir == expected


def test_dataloader_defaults_follow_the_command_line() -> None:
    loader = dict(batch_size=2, num_workers=2)
    cfg = cli.Config(dict(train_dataloader=loader, val_dataloader=loader))
    cli.merge_common_options(
        cfg, _parse('x.py', '--cfg-options', 'train_dataloader.num_workers=0')
    )
    assert not cfg.train_dataloader.persistent_workers
    assert cfg.val_dataloader.persistent_workers
    assert cfg.val_dataloader.collate_fn.type == 'default_collate'


def test_marks_of_a_base_config_do_not_reach_the_collate_function() -> None:
    name = (
        'mmpretrain::simmim/benchmarks/swin-base-w7_8xb256-coslr-100e_in1k.py'
    )
    cfg = cli.load_config(name)
    assert '_scope_' in cfg.train_dataloader.collate_fn
    cli.merge_common_options(cfg, _parse(name))
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')


def test_a_collate_function_may_be_given_itself() -> None:
    cfg = cli.Config(dict(train_dataloader=dict(collate_fn=list)))
    cli.merge_common_options(cfg, _parse('x.py'))
    assert cfg.train_dataloader.collate_fn is list


def test_origin_names_version_commit_and_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'a config.py'])
    first, *lines = cli.describe_origin().splitlines()
    told = dict(line.strip().split(': ', 1) for line in lines)
    assert first == 'Origin:'
    assert told['m2at_mm'] == __version__
    assert told['command'] == "python tools/train.py 'a config.py'"
    assert re.match(r'[0-9a-f]{7}|v?\d|none|unknown', told['commit'])


@pytest.mark.parametrize('on', [False, True])
def test_deterministic_runs_set_up_the_gpu_library(
    on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    built = mock.Mock()
    monkeypatch.setattr(cli.Runner, 'from_cfg', lambda cfg: built)
    cfg = cli.Config(dict(randomness=dict(deterministic=on)))
    assert cli.build_runner(cfg, _parse('x.py')) is built
    assert os.environ.get('CUBLAS_WORKSPACE_CONFIG') == (
        ':4096:8' if on else None
    )


@pytest.mark.parametrize(
    ('given', 'scale'),
    [
        (dict(), 'dynamic'),
        (dict(type=OptimWrapper), 'dynamic'),
        (dict(type='AmpOptimWrapper', dtype='float16'), 'dynamic'),
        (dict(dtype='bfloat16'), dict(enabled=False)),
        (dict(dtype=torch.bfloat16), dict(enabled=False)),
        (dict(dtype='bfloat16', loss_scale='dynamic'), 'dynamic'),
        (dict(loss_scale=512.0), 512.0),
    ],
)
def test_half_precision_scales_the_loss_where_it_must(
    given: dict, scale: Any
) -> None:
    cfg = cli.Config(dict(optim_wrapper=given))
    cli.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == scale
    assert cfg.optim_wrapper.get('dtype') == given.get('dtype')


@pytest.mark.parametrize(
    'kind', ['OptimWrapper', 'mmengine.AmpOptimWrapper', OptimWrapper]
)
def test_amp_replaces_the_plain_wrapper(kind: Any) -> None:
    cfg = cli.Config(dict(optim_wrapper=dict(type=kind)))
    cli.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'


@pytest.mark.parametrize('kind', ['m2at_mm.AWPOptimWrapper', AWPOptimWrapper])
def test_amp_replaces_no_other_wrapper(kind: Any) -> None:
    cfg = cli.Config(dict(optim_wrapper=dict(type=kind)))
    with pytest.raises(ValueError, match=r'--amp would replace .*AWPOptim'):
        cli.use_amp(cfg)
