"""The start of a run: its runner, and what the screen and the log tell."""

import argparse
import logging
import os
import os.path as osp
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from m2at_mm.registry import type_name
from m2at_mm.runner.process_group import connect_processes
from m2at_mm.version import __version__

# What MMEngine writes at every start, by how it begins: for the log file.
_ONLY_LOGGED = (
    '\n' + 60 * '-',  # the environment
    'Config:',
    'Distributed training is not used, all SyncBatchNorm',
    'Hooks will be executed',
    'Origin:',
    # MMEngine warns of calls of its own checkpoint hook.
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "Key ['",
)


def build_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """Build the config's runner, with its processes connected."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    distribution = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    connect_processes(args.launcher, distribution)
    if (cfg.get('randomness') or {}).get('deterministic'):
        # Without it PyTorch refuses products on a GPU, which begins to use
        # the setting with its first one.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    stock = Runner.build_logger

    def build_logger(runner: Runner, *args: Any, **settings: Any) -> MMLogger:
        """One that prints less than it writes."""
        logger = stock(runner, *args, **settings)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_for_the_screen)
        return logger

    Runner.build_logger = build_logger
    try:
        runner = build(cfg)
    finally:
        Runner.build_logger = stock
    runner.logger.info(describe_origin())
    return runner


def _is_for_the_screen(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_ONLY_LOGGED)


def show_head(runner: Runner, what: str, loader: str, **more: Any) -> None:
    """Log in a few lines ``what`` runs, on the 'train' or 'test' ``loader``.

    ``more`` is text or settings of a config.
    """
    cfg, model = runner.cfg, runner.model
    model = model.module if is_model_wrapper(model) else model
    data = cfg[f'{loader}_dataloader'].dataset
    network = getattr(model, 'backbone', model)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    shown = {k: data[k] for k in ('type', 'split', 'data_root') if k in data}
    results = more.pop('results', cfg.work_dir)
    lines = dict(
        network=f'{type(network).__name__}, {millions:.2f} million weights',
        data=_in_short(shown),
        **{'threat model': getattr(model, 'threat_model', 'none')},
        **{key.replace('_', ' '): _in_short(one) for key, one in more.items()},
        results=results,
        log=osp.join(runner.log_dir, f'{runner.timestamp}.log'),
    )
    width = max(map(len, lines)) + 2
    text = (f'    {key:{width}}{value}' for key, value in lines.items())
    name = osp.basename(cfg.filename or 'a config')
    runner.logger.info('\n'.join([f'{what} of {name}', *text]))


def _in_short(settings: Any) -> str:
    if not isinstance(settings, dict):
        return str(settings)
    rest = [f'{k}={v}' for k, v in settings.items() if k != 'type']
    return f'{type_name(settings.get("type"))}({", ".join(rest)})'


def build_trained_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """Build the config's runner, its network as ``load_from`` left it."""
    runner = build_runner(cfg, args)
    runner.call_hook('before_run')  # where EMAHook makes its model
    runner.load_or_resume()
    return runner


def describe_origin() -> str:
    """Describe what MMEngine's log lacks: this package, and the command."""
    command = shlex.join(['python', *sys.argv])
    origin = f'm2at_mm: {__version__}\n    commit: {_commit()}'
    return f'Origin:\n    {origin}\n    command: {command}'


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / '.git').exists():
        return 'none, the package is installed'
    command = 'git describe --always --dirty --abbrev=12'.split()
    try:
        return subprocess.check_output(
            command, cwd=root, stderr=subprocess.DEVNULL, text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown, git gives none'
