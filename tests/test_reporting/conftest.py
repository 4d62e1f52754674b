"""Two runs, of which one was evaluated."""

from pathlib import Path

import pytest
from report_support import results_of, write_results, write_session

from m2at_mm.reporting import Report, read_runs


@pytest.fixture()
def report(tmp_path: Path) -> Report:
    """The second run is trained worse and has no results."""
    write_session(tmp_path / 'one')
    write_session(tmp_path / 'two', robust=(9.0, 8.0, 7.0), method='PGDAT')
    results = results_of({'fgsm': 60.0, 'pgd20': 50.0})
    results['alarms'] = [dict(name='saturated_loss', message='look')]
    results['sweep'] = [results_of({'pgd20': 50.0})]
    results['settings'] = dict(checkpoint='epoch_3.pth', seed=4)
    found = dict(label=[0, 1, 1, 2], clean=[0, 1, 1, 1])
    found |= dict(fgsm=[0, 1, 0, 1], pgd20=[1, 1, 0, -1])
    write_results(tmp_path / 'one', results, **found)
    return Report(read_runs([tmp_path / 'one', tmp_path / 'two']))
