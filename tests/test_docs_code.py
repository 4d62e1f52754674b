"""The code of docs/extend.md and docs/example.py runs as it stands there."""

import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from digits_runner import build_digits_runner
from docs_support import DOCS
from PIL import Image
from pytest import MonkeyPatch

from m2at_mm.attacks import ThreatModel
from m2at_mm.cli import load_config
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.registry import TASK_UTILS

PAGE = (DOCS / 'extend.md').read_text('utf-8')
ATTACK, METHOD, CONFIG, SECTION = re.findall(
    r'```python\n(.*?)```', PAGE, re.DOTALL
)


@pytest.fixture(scope='module', autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Registers the page's classes, for this file only."""
    folder = tmp_path_factory.mktemp('own')
    (folder / 'momentum_pgd.py').write_text(ATTACK)
    (folder / 'half_adversarial.py').write_text(METHOD)
    known = set(TASK_UTILS.module_dict)
    with MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in ('momentum_pgd', 'half_adversarial'):
            import_module(name)
        yield
    for name in set(TASK_UTILS.module_dict) - known:
        TASK_UTILS.module_dict.pop(name)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_the_attack_finds_the_corner_of_a_linear_model(norm: str) -> None:
    images = torch.full((3, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    network[1].weight.data = torch.stack([weight, -weight])
    attack = TASK_UTILS.build(dict(type='m2at_mm.MomentumPGD', steps=8))
    labels = torch.zeros(3, dtype=torch.long)
    change = attack(network, images, labels, ThreatModel(norm, 0.1)) - 0.5
    best = weight.sign() if norm == 'linf' else weight / weight.norm()
    best = -0.1 * best.expand(3, -1)
    assert torch.allclose(change.flatten(1), best, atol=1e-5)
    with pytest.raises(ValueError, match='decay=-1'):
        TASK_UTILS.build(dict(type='m2at_mm.MomentumPGD', decay=-1))


def test_both_train_and_validate(tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(CONFIG)
    model = load_config(str(tmp_path / 'config.py')).model
    own = ('train_attack', 'method', 'eval_attacks')
    runner = build_digits_runner(
        tmp_path,
        8,
        model={name: dict(model[name], _delete_=True) for name in own},
        default_hooks=dict(checkpoint=dict(save_best='robust/momentum')),
    )
    assert isinstance(runner.model, AdversarialClassifier)
    attack = Mock(wraps=runner.model.attack_in_training)
    runner.model.attack_in_training = attack
    runner.train()
    assert [len(call.args[1]) for call in attack.mock_calls] == [4]
    scalars = runner.message_hub.log_scalars
    assert 0 <= scalars['val/robust/momentum'].current() <= 100


def test_the_section() -> None:
    names: dict = {}
    exec(SECTION, names)
    found = SimpleNamespace(results=dict(clean=80.0, worst_case=41.5))
    (table,) = names['gap'](SimpleNamespace(measured=dict(mine=found)))
    assert '<td>38.5</td>' in re.sub(r'<td[^>]*>', '<td>', table)


def test_example(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """On fewer images, for one epoch."""
    script = DOCS / 'example.py'
    code = script.read_text('utf-8')
    val = "'val_dataloader.dataset.indices': "
    for given, small in (
        ("'train_cfg.max_epochs': 2", "'train_cfg.max_epochs': 1"),
        (f'{val}50', f"{val}10, 'train_dataloader.dataset.indices': 64"),
        ('num_samples=100', 'num_samples=20'),
    ):
        assert code.count(given) == 1
        code = code.replace(given, small)
    monkeypatch.setattr(sys, 'argv', [str(script), str(tmp_path)])
    exec(compile(code, str(script), 'exec'), {'__name__': '__main__'})
    assert 'largest change: 32.0/255' in capsys.readouterr().out
    results = json.loads((tmp_path / 'results.json').read_text('utf-8'))
    assert list(results['attacks']) == ['fgsm', 'pgd20', 'cw20']
    assert results['num_samples'] == 20
    assert Image.open(tmp_path / 'masks.png').width > 500
