"""Starts the tools as a user does, on tiny settings; finds documentation."""

import importlib.util
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

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


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float  #: Of CPU time.


def run_in_fork(tool: str, words: list[str], folder: Path) -> Ended:
    """Run a tool inside of a folder, which gets its output.

    In a fork of this process, which has imported PyTorch already.
    """
    outputs = [folder / 'stdout.txt', folder / 'stderr.txt']
    child = os.fork()
    if child == 0:
        code: Any = 1
        try:
            for number, output in enumerate(outputs, 1):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(output, flags), number)
            sys.stdout = os.fdopen(1, 'w', closefd=False)
            sys.stderr = os.fdopen(2, 'w', closefd=False)
            os.chdir(folder)
            path = str(ROOT / 'tools' / f'{tool}.py')
            sys.argv = [path, *words]
            runpy.run_path(path, run_name='__main__')
            code = 0
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    texts = [output.read_text('utf-8', 'replace') for output in outputs]
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, *texts, used.ru_utime + used.ru_stime)


def run_tool(name: str, *words: Any, processes: int = 0) -> str:
    """Run a tool, with torchrun if there are processes; what it printed."""
    given = [*map(str, words)]
    if not processes:
        with tempfile.TemporaryDirectory() as folder:
            code, out, err, _ = run_in_fork(name, given, Path(folder))
        assert code == 0, out[-2000:] + err[-2000:]
        return out + err
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += [f'--nproc_per_node={processes}']
    command += [str(ROOT / 'tools' / f'{name}.py'), *given]
    both: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(command, **both, text=True, env=clean_env())
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
PAGES += sorted(DOCS.rglob('*.md'))


def numbers(content: Any) -> list[float]:
    """Every number in what a file holds."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [one for value in content for one in numbers(value)]
    number = isinstance(content, (int, float)) and type(content) is not bool
    return [content] if number else []


def load_script(name: str) -> ModuleType:
    """A module of docs/scripts."""
    path = DOCS / 'scripts' / f'{name}.py'
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # they import each other
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
