from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_support import results_of, write_results, write_session

from m2at_mm.reporting import log_sections
from m2at_mm.reporting.blocks import Section
from m2at_mm.reporting.run_log import RunLog, read_runs


@pytest.fixture()
def runs(tmp_path: Path) -> list[RunLog]:
    """Two runs, of which the second is trained worse."""
    write_session(tmp_path / 'one')
    write_session(tmp_path / 'two', robust=(9.0, 8.0, 7.0), method='PGDAT')
    return read_runs([tmp_path / 'one', tmp_path / 'two'])


def _content(section: Section, kind: str) -> list[Any]:
    return [one.content for one in section.blocks if one.kind == kind]


def test_overview(runs: list[RunLog]) -> None:
    (table,) = _content(log_sections.overview(runs), 'table')
    rows = [dict(zip(table.head, row)) for row in table.rows]
    assert [row['method'] for row in rows] == ['M2AT', 'PGDAT']
    assert rows[0]['run'] == 'one' and rows[0]['eps'] == '8/255'
    assert rows[0]['trained'] == '3 epochs of 4' and rows[0]['data'] == '–'


def test_differing_settings_are_open_and_common_ones_folded(
    runs: list[RunLog],
) -> None:
    section = log_sections.settings(runs)
    (table,) = _content(section, 'settings')
    assert table.rows == [
        ['model.method.type', 'm2at_mm.M2AT', 'm2at_mm.PGDAT']
    ]
    (folded,) = _content(section, 'folded')
    assert ('train_cfg.max_epochs', '4') in folded.rows
    alone = log_sections.settings(runs[:1])
    assert [block.kind for block in alone.blocks] == ['folded']


def test_best_last_and_what_was_lost(runs: list[RunLog]) -> None:
    assert [log_sections.best_and_last(run) for run in runs] == [
        (2.0, 3.0),
        (1.0, 3.0),
    ]
    section = log_sections.curves(runs)
    (figures,) = _content(section, 'figures')
    assert len(figures) == 5  # loss, lr, clean, pgd10, worst
    (table,) = _content(section, 'table')
    assert table.rows[0] == [
        'one',
        'robust/pgd10',
        ('30.00', 'epoch 2'),
        ('25.00', 'epoch 3'),
        '5.00',
    ]


def test_environment_and_commands(runs: list[RunLog], tmp_path: Path) -> None:
    section = log_sections.origin(runs)
    (table,) = _content(section, 'settings')
    assert ['commit', 'abc123', 'abc123'] in table.rows
    assert ['seed', '7', '7'] in table.rows
    codes = [one.text for one in section.blocks if one.kind == 'code']
    assert codes == ["python tools/train.py 'a b.py'"] * 2

    sweep = [results_of({'pgd20': 1.0})]
    settings = dict(checkpoint='epoch_3.pth', seed=4)
    results = results_of({'pgd20': 1.0}, settings=settings, sweep=sweep)
    write_results(tmp_path / 'one', results)
    for log in tmp_path.glob('*/*/*.log'):
        log.write_text('nothing')
    (run,) = read_runs([tmp_path / 'one'])
    section = log_sections.origin([run])
    (table,) = _content(section, 'settings')
    assert table.rows == [['commit', 'not in the log']]
    train, test = (one.text for one in section.blocks if one.kind == 'code')
    config = tmp_path / 'one' / '20260102_030405' / 'vis_data' / 'config.py'
    assert train.startswith(f'python tools/train.py {config} --work-dir ')
    assert test == (
        f'python tools/test.py {config} {tmp_path / "one" / "epoch_3.pth"} '
        '--attacks clean pgd20 --eps 8/255 --num-samples 100 --seed 4'
    )
