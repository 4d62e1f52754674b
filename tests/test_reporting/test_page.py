from __future__ import annotations

from pathlib import Path

import pytest
from report_support import Page, results_of, write_results, write_session

from m2at_mm.reporting import read_run, read_runs, render

EVIL = '<script>alert(1)</script>'


def test_page_of_two_runs(tmp_path: Path) -> None:
    for name in ('one', 'two'):
        write_session(tmp_path / name)
    runs = read_runs([tmp_path / 'one', tmp_path / 'two'])
    page = Page(render(runs, {}, {'one': 'no checkpoint', 'two': 'no data'}))
    page.check()
    links = {attrs['href'][1:] for attrs in page.all('a')}
    assert links <= {attrs.get('id') for attrs in page.all('h2')}
    for reason in ('no checkpoint', 'no data'):
        assert f'was not attacked for this report: {reason}' in page.text
    assert page.all('html') == [{'lang': 'en'}]
    assert len(page.all('svg')) == 5


def test_everything_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / f'a&b {EVIL[:8]}'
    path = write_session(folder)
    config = path.with_name('config.py')
    config.write_text(f'{config.read_text()}\nnote = {EVIL!r}\n')
    log = folder / path.parents[1].name / f'{path.parents[1].name}.log'
    log.write_text(log.read_text().replace('abc123', EVIL))
    results = results_of({EVIL: 3.0}, notes=[EVIL])
    results['alarms'] = [dict(name=EVIL, message=EVIL)]
    write_results(folder, results)
    page = Page(render([read_run(folder)], {}, {folder.name: EVIL}))
    page.check()  # there is no script
    assert page.text.count(EVIL) > 6


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        ('caf\udce9', 'caf?'),
        ('_hidden', './_hidden'),
        ('a$b$c', 'a$b$c'),
        ('two\nlines', 'two?lines'),
    ],
)
def test_odd_names(name: str, shown: str, tmp_path: Path) -> None:
    write_session(tmp_path / name)
    html = render([read_run(tmp_path / name)], {}, {})
    page = Page(html.encode().decode())
    page.check()
    # In the legends of all figures, too.
    assert page.text.count(shown) > len(page.all('svg')) * 2
