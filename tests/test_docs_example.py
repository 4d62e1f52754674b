"""The example runs from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from docs_support import DOCS
from PIL import Image

SCRIPT = DOCS / 'example.py'


def test_example(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """On fewer images, for one epoch."""
    code = SCRIPT.read_text('utf-8')
    val = "'val_dataloader.dataset.indices': "
    fewer = f"{val}10, 'train_dataloader.dataset.indices': 64"
    for given, small in (
        ("'train_cfg.max_epochs': 2", "'train_cfg.max_epochs': 1"),
        (f'{val}50', fewer),
        ('num_samples=100', 'num_samples=20'),
    ):
        assert code.count(given) == 1
        code = code.replace(given, small)
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), str(tmp_path)])
    exec(compile(code, str(SCRIPT), 'exec'), {'__name__': '__main__'})
    assert 'largest change: 32.0/255' in capsys.readouterr().out
    results = json.loads((tmp_path / 'results.json').read_text('utf-8'))
    assert list(results['attacks']) == ['fgsm', 'pgd20', 'cw20']
    assert results['num_samples'] == 20
    assert Image.open(tmp_path / 'masks.png').width > 500
