"""tools/train.py on several processes that live and die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from check_resume import differences
from mmengine.config import Config
from mmengine.runner import Runner
from tools_support import DIGITS, ROOT, TINY, clean_env, cli_options, free_port

SETTINGS: dict[str, Any] = TINY | {
    'train_dataloader.dataset.indices': 96,
    'train_dataloader.batch_size': 16,
    'val_dataloader.dataset.indices': 31,  # one process sees one twice
    'train_cfg.max_epochs': 2,
}
# Kills its process once, as a machine would.
DIE_ONCE = """
import os, signal
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DieOnce(Hook):
    def __init__(self, mark, iteration):
        self.mark, self.iteration = Path(mark), iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        now = runner.rank == 1 and runner.iter == self.iteration
        if now and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


ONE_NODE = ('--standalone', '--nproc_per_node', '2')


def torchrun(
    work_dir: Path,
    *words: str,
    config: Path = DIGITS,
    options: dict[str, Any] | None = None,
    resume: bool = False,
    **env: str,
) -> subprocess.Popen:
    """Start training on several processes; its output goes to a file."""
    work_dir.mkdir(exist_ok=True)
    command = [sys.executable, '-m', 'torch.distributed.run']
    command += [*(words or ONE_NODE), str(ROOT / 'tools' / 'train.py')]
    command += [str(config), '--launcher', 'pytorch', '--work-dir']
    command += [str(work_dir), *['--resume'] * resume]
    command += cli_options(SETTINGS, options or {})
    env = clean_env() | env
    with (work_dir / 'output.txt').open('a') as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=env)


def finish(*processes: subprocess.Popen, work_dir: Path) -> str:
    """Wait until all have ended well; what they printed."""
    codes = [process.wait(timeout=300) for process in processes]
    text = (work_dir / 'output.txt').read_text('utf-8')
    assert codes == [0] * len(codes), text[-3000:]
    return text


def fail(process: subprocess.Popen, work_dir: Path) -> str:
    assert process.wait(timeout=90) != 0
    return (work_dir / 'output.txt').read_text('utf-8')


def wait_for(pattern: str, folder: Path, process: subprocess.Popen) -> None:
    """Until there is such a file, while the process lives."""
    while not list(folder.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.05)


@pytest.fixture(scope='module')
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training on two processes of one node, uninterrupted."""
    work_dir = tmp_path_factory.mktemp('one_node')
    finish(torchrun(work_dir), work_dir=work_dir)
    return work_dir


@pytest.fixture
def dying(tmp_path: Path) -> dict[str, Any]:
    """A config whose second process dies in the second epoch, once."""
    (tmp_path / 'die_once.py').write_text(DIE_ONCE)
    config, mark = tmp_path / 'config.py', str(tmp_path / 'mark')
    hook = f"type='mmengine.DieOnce', iteration=4, mark={mark!r}"
    text = "custom_imports = dict(imports=['die_once'])\n"
    text += f'_base_ = [{str(DIGITS)!r}]\ncustom_hooks = [dict({hook})]\n'
    config.write_text(text)
    return dict(config=config, PYTHONPATH=f'{tmp_path}:{ROOT}')


@pytest.mark.slow
def test_no_image_is_counted_twice(one_node: Path, tmp_path: Path) -> None:
    """What two processes report is what one finds in the checkpoint."""
    (log,) = one_node.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    clean = [one['robust/clean'] for one in lines if 'robust/clean' in one][-1]
    cfg = Config.fromfile(one_node / DIGITS.name)
    cfg.launcher, cfg.work_dir = 'none', str(tmp_path)
    cfg.load_from = str(one_node / 'epoch_2.pth')
    found = Runner.from_cfg(cfg).val()
    assert clean == pytest.approx(found['robust/clean'])
    assert clean * 31 / 100 == pytest.approx(round(clean * 31 / 100))


@pytest.mark.slow
def test_two_nodes_are_two_processes(one_node: Path, tmp_path: Path) -> None:
    words = ['--nnodes', '2', '--nproc_per_node', '1', '--master_addr']
    words += ['127.0.0.1', '--master_port', str(free_port()), '--node_rank']
    folder = tmp_path / 'two_nodes'
    nodes = [torchrun(folder, *words, rank) for rank in '01']
    finish(*nodes, work_dir=folder)
    assert differences(one_node, folder) == []


@pytest.mark.slow
def test_restart_is_equal(one_node: Path, dying: Any, tmp_path: Path) -> None:
    work_dir = tmp_path / 'restarted'
    process = torchrun(work_dir, *ONE_NODE, '--max-restarts', '1', **dying)
    text = finish(process, work_dir=work_dir)
    assert (tmp_path / 'mark').exists()
    assert 'resumed epoch: 1, iter: 3' in text
    assert differences(one_node, work_dir) == []


@pytest.mark.slow
def test_a_death_ends_the_others(dying: Any, tmp_path: Path) -> None:
    process = torchrun(tmp_path / 'ended', **dying)
    wait_for('mark', tmp_path, process)
    assert 'Signal 9 (SIGKILL)' in fail(process, tmp_path / 'ended')


@pytest.mark.slow
def test_sigterm_reaches_all(one_node: Path, tmp_path: Path) -> None:
    work_dir = tmp_path / 'terminated'
    often = {'default_hooks.preemption.interval': 1}
    process = torchrun(work_dir, options=often)
    wait_for('*/vis_data/scalars.json', work_dir, process)
    process.send_signal(signal.SIGTERM)
    assert 'SIGTERM: training ends after' in fail(process, work_dir)
    latest = Path((work_dir / 'last_checkpoint').read_text('utf-8'))
    assert latest.name.startswith('preempted_iter_')
    resumed = torchrun(work_dir, options=often, resume=True)
    finish(resumed, work_dir=work_dir)
    assert differences(one_node, work_dir) == []


SCRIPT = ROOT / 'tools' / 'slurm_train.sh'
# In place of Slurm: writes down how it was called.
SRUN = """#!/usr/bin/env python3
import json, os, sys
json.dump(sys.argv[1:], open(os.environ['CALLED'], 'w'))
sys.exit(143)
"""


def called(folder: Path, *words: str, **env: str) -> list[str]:
    srun, log = folder / 'srun', folder / 'called.json'
    srun.write_text(SRUN)
    srun.chmod(0o755)
    env |= dict(PATH=f'{folder}:{os.environ["PATH"]}', CALLED=str(log))
    done = subprocess.run([str(SCRIPT), *words], env=os.environ | env)
    assert done.returncode == 143  # srun's own
    return json.loads(log.read_text())


def test_as_mmpretrain_users_know_it(tmp_path: Path) -> None:
    options = ['--resume', '--cfg-options', 'model.method.mask=two words']
    given = ('part', 'my job', 'configs/a.py', 'work dirs/a', *options)
    more = '--time=4:00:00 --signal=TERM@120'
    words = called(tmp_path, *given, GPUS='16', SRUN_ARGS=more)
    split = words.index('python')
    asked = '--gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=5'
    asked += f' --kill-on-bad-exit=1 {more}'
    names = ['--partition=part', '--job-name=my job']
    assert words[:split] == [*names, *asked.split()]
    tool = ['python', '-u', str(ROOT / 'tools' / 'train.py'), 'configs/a.py']
    place = ['--work-dir=work dirs/a', '--launcher=slurm']
    assert words[split:] == [*tool, *place, *options]
    # Without extras.
    words = called(tmp_path, 'part', 'job', 'configs/a.py', 'work')
    assert '--ntasks=8' in words and words[-1] == '--launcher=slurm'


@pytest.mark.parametrize('words', [[], ['part', 'job', 'config']])
def test_too_few_words(words: list[str]) -> None:
    command = [str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and 'usage: slurm_train.sh' in done.stderr
