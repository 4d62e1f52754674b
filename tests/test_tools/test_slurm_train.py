import json
import os
import subprocess
from pathlib import Path

import pytest
from tools_support import ROOT

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
