"""Starts the tools as a user does, on tiny settings."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MAIN = ROOT / 'configs' / 'm2at_resnet18_cifar10.py'
DIGITS = ROOT / 'configs' / 'm2at_resnet18-w16_digits.py'

# A ResNet-18 of this width.
NARROW: dict[str, Any] = {
    'model.classifier.backbone.base_channels': 8,
    'model.classifier.backbone.stem_channels': 8,
    'model.classifier.head.in_channels': 64,
}
# The network of configs/m2at_resnet18-w16_digits.py at half its width, with
# an attack of two steps.
TINY: dict[str, Any] = NARROW | {
    'model.train_attack.steps': 2,
    'model.train_attack.step_size': '16/255',
    'val_dataloader.dataset.indices': 50,
    'param_scheduler.milestones': '[100]',
    'default_hooks.logger.interval': 1,
}


def cli_options(*settings: dict[str, Any]) -> list[str]:
    """``--cfg-options`` of settings, the later ones first in rank."""
    merged = {key: value for part in settings for key, value in part.items()}
    return ['--cfg-options', *(f'{k}={v}' for k, v in merged.items())]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


def clean_env() -> dict[str, str]:
    """This environment on one thread and outside any process group."""
    env = dict(os.environ, OMP_NUM_THREADS='1')
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT'):
        env.pop(name, None)
    return env


def run_tool(name: str, *words: Any, processes: int = 0) -> str:
    """Run a tool, with torchrun if there are processes; what it printed."""
    command = [sys.executable]
    if processes:
        command += ['-m', 'torch.distributed.run', '--standalone']
        command += [f'--nproc_per_node={processes}']
    command += [str(ROOT / 'tools' / f'{name}.py'), *map(str, words)]
    both: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(command, **both, text=True, env=clean_env())
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
