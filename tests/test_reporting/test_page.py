import re
from pathlib import Path

import numpy as np
import pytest
from report_support import Page, results_of, write_results, write_session

from m2at_mm.reporting import Report, page, read_run, render

EVIL = '<script>alert(1)</script>'


def test_page_of_two_runs(report: Report) -> None:
    missing = {'one': 'no checkpoint', 'two': 'no data'}
    shown = Page(render(Report(report.runs, missing=missing)))
    links = {attrs['href'][1:] for attrs in shown.all('a')}
    assert links <= {attrs.get('id') for attrs in shown.all('h2')}
    for reason in missing.values():
        assert f'was not attacked for this report: {reason}' in shown.text
    assert shown.all('html') == [{'lang': 'en'}]


def test_everything_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / f'a&b {EVIL[:8]}'
    path = write_session(folder)
    config = path.with_name('config.py')
    config.write_text(f'{config.read_text()}\nnote = {EVIL!r}\n')
    (log,) = folder.glob('*/*.log')
    log.write_text(log.read_text().replace('abc123', EVIL))
    results = results_of({EVIL: 3.0}, notes=[EVIL])
    results['alarms'] = [dict(name=EVIL, message=EVIL)]
    write_results(folder, results)
    report = Report([read_run(folder)], missing={folder.name: EVIL})
    # The page is checked to be without scripts.
    assert Page(render(report)).text.count(EVIL) > 6


def test_odd_names(tmp_path: Path) -> None:
    names = {'caf\udce9': 'caf?', '_hidden': './_hidden'}
    names |= {'a$b$c': 'a$b$c', 'two\nlines': 'two?lines'}
    for name in names:
        write_session(tmp_path / name)
    html = render(Report([read_run(tmp_path / name) for name in names]))
    found = Page(html.encode().decode())
    for shown in names.values():
        # In the legends of all figures, too.
        assert found.text.count(shown) > len(found.all('svg')) * 2


def _contrast(*pair: str) -> float:
    """WCAG 2.2's contrast ratio of two colours, from 1 to 21."""
    levels = []
    for colour in pair:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        curved = ((parts + 0.055) / 1.055) ** 2.4
        linear = np.where(parts <= 0.04045, parts / 12.92, curved)
        levels.append(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return max(levels) / min(levels)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_contrast_is_that_of_wcag_aa(scheme: str) -> None:
    assert _contrast('#000000', '#ffffff') == pytest.approx(21)
    # The lightest grey that WCAG allows for text on white.
    assert 4.5 <= _contrast('#767676', '#ffffff') < 4.6
    style = Path(page.__file__).with_name('templates') / 'style.css'
    text, _, dark = style.read_text().partition('prefers-color-scheme: dark')
    if scheme == 'dark':  # dark colours replace some
        text += dark.partition('* {')[0]
    colours = dict(re.findall(r'--([\w-]+): (#[0-9a-f]{6});', text))
    assert len(colours) == 14
    # Lines and markers of figures need 3 to 1, on the page alone.
    least = {f'series-{k}': 3.0 for k in range(6)}
    least |= dict.fromkeys(('text', 'muted', 'link', 'warn'), 4.5)
    for name, ratio in least.items():
        for behind in ('page', 'raised')[: 1 + (ratio > 3)]:
            assert _contrast(colours[name], colours[behind]) >= ratio, name
