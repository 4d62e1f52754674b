"""The report as a user starts it, and as a browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from report_support import DATA, Page, results_of, write_results
from tools_support import run_tool

PGDAT = dict(method=dict(_delete_=True, type='m2at_mm.PGDAT'))
METHODS = {'m2at': {}, 'pgd-at': dict(model=PGDAT)}
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
# What the page is like, told by the page itself. A browser's window is never
# as narrow as a phone, but a frame is.
PROBE = (DATA / 'report_probe.html').read_text()
FRAME = (DATA / 'report_frame.html').read_text()


@pytest.fixture(scope='module')
def work_dirs(tmp_path_factory: Any) -> list[Path]:
    """Two runs of two epochs of forty digits."""
    root = tmp_path_factory.mktemp('runs')
    for name, settings in METHODS.items():
        build_digits_runner(root / name, 40, epochs=2, **settings).train()
    return [root / name for name in METHODS]


@pytest.fixture(scope='module')
def report(work_dirs: list[Path]) -> Path:
    """The report on both, one of them evaluated."""
    truth = [k % 10 for k in range(20)]
    predictions = dict(label=truth, clean=truth, fgsm=[0] * 20)
    write_results(work_dirs[0], results_of({'fgsm': 10.0}), **predictions)
    path = work_dirs[0].parent / 'page' / 'report.html'
    path.parent.mkdir()
    path.write_text('an older report')
    printed = run_tool('report', *work_dirs, '--out', path, '--num-images', 6)
    assert f'report: {path}' in printed
    return path


@pytest.mark.slow
def test_page(report: Path) -> None:
    page = Page(report.read_text('utf-8'))
    assert [p.name for p in report.parent.iterdir()] == ['report.html']
    names = 'result runs evaluation settings curves sweep classes examples '
    names += 'surfaces'
    sections = [attrs['id'] for attrs in page.all('h2')]
    assert sections == [*names.split(), 'environment']
    # loss, kept share, lr, clean, pgd10, worst; final accuracy; the sweep;
    # two matrices and three surfaces a run
    assert len(page.all('svg')) == 6 + 1 + 1 + 2 * (2 + 3)
    assert len(page.all('img')) == 2 * 6 * 3
    assert 'm2at_mm.PGDAT' in page.text and 'Under fgsm' in page.text


def _shown(report: Path, folder: Path, width: int, dark: bool) -> Any:
    """What :data:`PROBE` tells, and what the console does."""
    html = report.read_text('utf-8')
    # The probe needs a script, which the page itself forbids.
    policy = "default-src 'none';"
    assert policy in html
    html = html.replace(policy, policy + " script-src 'unsafe-inline';")
    html = html.replace('<style>', PROBE + '<style>')
    (folder / 'page.html').write_text(html, 'utf-8')
    frame = folder / 'frame.html'
    frame.write_text(FRAME.replace('WIDTH', str(width)), 'utf-8')
    options = '--headless --no-sandbox --disable-gpu --enable-logging=stderr'
    options += ' --window-size=1400,900 --virtual-time-budget=5000 --dump-dom'
    options += f' --blink-settings=preferredColorScheme={0 if dark else 1}'
    profile = f'--user-data-dir={folder / "profile"}'
    command = [str(CHROMIUM), *options.split(), profile, frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert 'CONSOLE' not in done.stderr, done.stderr
    title = re.search('<title>(.*?)</title>', done.stdout)
    assert title is not None, done.stderr
    return json.loads(title[1])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium')
@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1280])
def test_browser(report: Path, tmp_path: Path, width: int, dark: bool) -> None:
    found = _shown(report, tmp_path, width, dark)
    assert found['complaints'] == []
    assert all(url.startswith('data:') for url in found['requests'])
    assert len(found['sizes']) == 18 + 36
    assert min(min(size) for size in found['sizes']) > 20
    assert found['inner'] == width and found['scroll'] <= width
    (level, *_) = map(int, re.findall(r'\d+', found['background']))
    assert (level < 60) == dark


def test_without_checkpoint_or_data(work_dirs: Any, tmp_path: Path) -> None:
    gone, lost = tmp_path / 'gone', tmp_path / 'lost'
    for folder, source in zip((gone, lost), work_dirs):
        ignored = shutil.ignore_patterns('test', 'results*')
        shutil.copytree(source, folder, ignore=ignored)
    for path in (*gone.glob('*.pth'), gone / 'last_checkpoint'):
        path.unlink()
    (config,) = lost.glob('*/vis_data/config.py')
    text = config.read_text().replace('m2at_mm.Digits', 'm2at_mm.CIFAR10')
    changed = "data_root='/nowhere', download=False"
    text += f"\ntest_dataloader['dataset'].update({changed})\n"
    config.write_text(text)
    out = tmp_path / 'report.html'
    printed = run_tool('report', gone, lost, '--out', out)
    page = Page(out.read_text('utf-8'))
    for text in (printed, page.text):
        assert 'neither best_*.pth nor the file that last_checkpoint' in text
        assert '/nowhere' in text
    assert len(page.all('svg')) == 6 and not page.all('img')


def test_files_alone(work_dirs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / 'new' / 'report.html'
    printed = run_tool('report', work_dirs[1], '--out', out, '--no-model')
    assert 'attacking' not in printed
    assert '--no-model was given' in Page(out.read_text('utf-8')).text
