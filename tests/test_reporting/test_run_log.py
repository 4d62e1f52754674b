import os
from pathlib import Path

import pytest
from report_support import results_of, write_results, write_session

from m2at_mm.reporting.run_log import read_run, read_runs


def test_a_run_of_three_epochs(tmp_path: Path) -> None:
    path = write_session(tmp_path)
    with path.open('a') as file:
        file.write('{"lr": 0.')  # half written
    run = read_run(tmp_path)
    assert run.name == tmp_path.name and run.unit == 'epoch'
    assert run.training['loss'] == {0.5: 2 / 5, 1.5: 2 / 15, 2.5: 2 / 25}
    names = {'robust/clean', 'robust/pgd10', 'robust/worst'}
    assert set(run.validation) == names
    assert run.validation['robust/pgd10'] == {1.0: 20, 2.0: 30, 3.0: 25}
    assert run.selected == 'robust/pgd10'
    assert run.config['model']['method']['type'] == 'm2at_mm.M2AT'
    environment = dict(m2at_mm='0.1.0', commit='abc123', PyTorch='2.14.1')
    environment |= dict(Python='3.11.7 (main) [GCC 12.2.0]', seed='7')
    environment |= {'sys.platform': 'linux'}
    environment['command'] = "python tools/train.py 'a b.py'"
    assert run.environment == environment
    assert run.results is None and run.checkpoint is None


def test_resumed_run_is_one_curve(tmp_path: Path) -> None:
    write_session(tmp_path, '20260102_030405')
    # It went on after epoch 1 and did epoch 2 again, epoch 3 not yet.
    write_session(tmp_path, '20260103_030405', (2,), (33.0,))
    run = read_run(tmp_path)
    assert run.validation['robust/pgd10'] == {1.0: 20, 2.0: 33}
    assert sorted(run.training['loss']) == [0.5, 1.5]


def test_iterations_results_and_best_checkpoint(tmp_path: Path) -> None:
    write_session(tmp_path)
    (log,) = tmp_path.glob('*/*.log')
    log.write_text(log.read_text().replace('Epoch(train)', 'Iter(train)'))
    write_results(tmp_path, results_of({'pgd20': 40.0}), label=[1, 0])
    for name in ('best_x_epoch_2.pth', 'best_x_epoch_2-0123abcd.pth'):
        (tmp_path / name).touch()
    run = read_run(tmp_path)
    assert run.unit == 'iteration'
    assert sorted(run.training['loss']) == [5, 15, 25]
    assert run.results is not None and run.results['clean'] == 80
    assert run.predictions['label'].tolist() == [1, 0]
    assert run.checkpoint == tmp_path / 'best_x_epoch_2.pth'


def test_evaluations_are_found_wherever_they_are(tmp_path: Path) -> None:
    write_session(tmp_path)
    for number, name in enumerate(['test/results.json', 'mine.json']):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_results(path.parent, results_of({'fgsm': number}), label=[1])
        for written in ('results.json', 'results.samples.npz'):
            place = path.parent / written
            place.rename(
                place.with_name(written.replace('results', path.stem))
            )
        os.utime(path, (number, number))
    (tmp_path / 'settings.json').write_text('{"seed": 1}')
    other = tmp_path / 'fine' / 'tuned'  # a training of its own
    other.mkdir(parents=True)
    (other / 'last_checkpoint').touch()
    write_results(other, results_of({'fgsm': 99}))
    run = read_run(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in run.evaluations]
    assert names == ['mine.json', 'test/results.json']
    assert run.results is not None and run.results['worst_case'] == 1
    assert run.predictions['label'].tolist() == [1]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / 'a' / 'run', tmp_path / 'b' / 'run']
    for folder in folders:
        write_session(folder)
    assert [run.name for run in read_runs(folders)] == ['a/run', 'b/run']
    with pytest.raises(ValueError, match=r'work dir .*run.* given twice'):
        read_runs([folders[0], folders[0]])


@pytest.mark.parametrize(
    ('spoil', 'text', 'message'),
    [
        (None, None, 'not a folder'),
        (None, '', 'has no log of a training'),
        ('*/vis_data/scalars.json', '(\n1', 'line 1 of .* no record of'),
        ('*/vis_data/scalars.json', '[1]\n{}', 'line 1 .* no record of'),
        ('*/vis_data/config.py', '(((', 'config.py cannot be read'),
        ('results.json', '(((', 'results.json cannot be read'),
        ('results.json', '{"clean": 1}', "results.json has no 'attacks'"),
        ('results.samples.npz', '(((', 'samples.npz cannot be read'),
    ],
)
def test_what_cannot_be_read(
    spoil: str | None, text: str | None, message: str, tmp_path: Path
) -> None:
    folder = tmp_path if text is not None else tmp_path / 'nowhere'
    if spoil is not None:
        write_session(folder)
        write_results(folder, results_of({'fgsm': 1.0}), label=[1])
        next(folder.glob(spoil)).write_text(str(text))
    error = ValueError if spoil else FileNotFoundError
    with pytest.raises(error, match=message):
        read_run(folder)
