from __future__ import annotations

from pathlib import Path

import pytest
from report_support import results_of, write_results, write_session

from m2at_mm.reporting.run_log import read_run, read_runs


def test_a_run_of_three_epochs(tmp_path: Path) -> None:
    write_session(tmp_path)
    run = read_run(tmp_path)
    assert run.name == tmp_path.name and run.unit == 'epoch'
    assert run.training['loss'] == {0.5: 2 / 5, 1.5: 2 / 15, 2.5: 2 / 25}
    assert run.validation['robust/pgd10'] == {1.0: 20, 2.0: 30, 3.0: 25}
    assert set(run.validation) == {
        'robust/clean',
        'robust/pgd10',
        'robust/worst',
    }
    assert run.selected == 'robust/pgd10'
    assert run.config['model']['method']['type'] == 'm2at_mm.M2AT'
    assert run.environment == {
        'sys.platform': 'linux',
        'Python': '3.11.7 (main) [GCC 12.2.0]',
        'PyTorch': '2.14.1',
        'seed': '7',
        'm2at_mm': '0.1.0',
        'commit': 'abc123',
        'command': "python tools/train.py 'a b.py'",
    }
    assert run.results is None and run.checkpoint is None


def test_resumed_run_is_one_curve(tmp_path: Path) -> None:
    write_session(tmp_path, '20260102_030405')
    # It went on after epoch 1 and did epoch 2 again, epoch 3 not yet.
    write_session(tmp_path, '20260103_030405', (2,), (33.0,))
    run = read_run(tmp_path)
    assert run.validation['robust/pgd10'] == {1.0: 20, 2.0: 33}
    assert sorted(run.training['loss']) == [0.5, 1.5]


def test_a_half_written_last_line_is_no_error(tmp_path: Path) -> None:
    path = write_session(tmp_path)
    with path.open('a') as file:
        file.write('{"lr": 0.')
    assert len(read_run(tmp_path).training['loss']) == 3


def test_iterations_where_the_loop_counts_them(tmp_path: Path) -> None:
    path = write_session(tmp_path)
    log = path.parents[1] / f'{path.parents[1].name}.log'
    log.write_text(log.read_text().replace('Epoch(train)', 'Iter(train)'))
    run = read_run(tmp_path)
    assert run.unit == 'iteration'
    assert sorted(run.training['loss']) == [5, 15, 25]


def test_results_and_best_checkpoint(tmp_path: Path) -> None:
    write_session(tmp_path)
    write_results(tmp_path, results_of({'pgd20': 40.0}), label=[1, 0])
    for name in ('best_x_epoch_2.pth', 'best_x_epoch_2-0123abcd.pth'):
        (tmp_path / name).touch()
    run = read_run(tmp_path)
    assert run.results is not None and run.results['clean'] == 80
    assert run.predictions['label'].tolist() == [1, 0]
    assert run.checkpoint == tmp_path / 'best_x_epoch_2.pth'


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / 'a' / 'run', tmp_path / 'b' / 'run']
    for folder in folders:
        write_session(folder)
    assert [run.name for run in read_runs(folders)] == ['a/run', 'b/run']
    with pytest.raises(ValueError, match=r'work dir .*run.* given twice'):
        read_runs([folders[0], folders[0]])


@pytest.mark.parametrize(
    ('spoil', 'error', 'message'),
    [
        (None, FileNotFoundError, 'has no log of a training'),
        ('*/vis_data/scalars.json', ValueError, 'line 1 of .* no record of'),
        ('*/vis_data/config.py', ValueError, 'config.py cannot be read'),
        ('results.json', ValueError, r'results.json cannot be read'),
        ('results.samples.npz', ValueError, 'samples.npz cannot be read'),
    ],
)
def test_what_cannot_be_read(
    spoil: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if spoil is not None:
        write_session(tmp_path)
        write_results(tmp_path, results_of({'fgsm': 1.0}), label=[1])
        (path,) = tmp_path.glob(spoil)
        path.write_text('{"no\n(((\n')
    with pytest.raises(error, match=message):
        read_run(tmp_path)


def test_other_jsons_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere.*not a folder'):
        read_run(tmp_path / 'nowhere')
    path = write_session(tmp_path)
    (tmp_path / 'results.json').write_text('{"clean": 1}')
    with pytest.raises(ValueError, match=r"results.json has no 'attacks'"):
        read_run(tmp_path)
    path.write_text('[1]\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r'line 1 .* no record of MMEngine'):
        read_run(tmp_path)
