from __future__ import annotations

from pathlib import Path
from typing import Any

from digits_runner import build_digits_runner

from m2at_mm.benchmark import rivals_of, switches_of
from m2at_mm.benchmark.from_runner import OURS
from m2at_mm.methods import M2AT, PGDAT, TRADES


def test_switches_change_method_and_attack_only(tmp_path: Path) -> None:
    runner = build_digits_runner(tmp_path, 8)
    model: Any = runner.model
    own, attack = model.method, model.train_attack
    assert isinstance(own, M2AT)
    switches = switches_of(['trades', 'pgd-at'], runner)
    assert list(switches) == [OURS, f'{OURS} trades', f'{OURS} pgd-at']
    for name, method in (
        (f'{OURS} trades', TRADES),
        (f'{OURS} pgd-at', PGDAT),
    ):
        switches[name]()
        assert isinstance(model.method, method)
        assert model.train_attack.steps == attack.steps
        assert model.train_attack.step_size == attack.step_size
    switches[OURS]()
    assert model.method is own and model.train_attack is attack


def test_rivals_have_the_first_batch(tmp_path: Path) -> None:
    runner = build_digits_runner(tmp_path, 8)
    rival = rivals_of(['limit'], runner)['limit']
    dataset = runner.train_dataloader.dataset
    assert rival.labels.tolist() == [
        dataset.get_data_info(i)['gt_label'] for i in range(8)
    ]
    assert rival.images.shape[0] == 8
    assert 0 <= rival.images.min() and rival.images.max() <= 1
