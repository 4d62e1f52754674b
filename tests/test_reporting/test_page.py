from __future__ import annotations

import re
from pathlib import Path

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
    names = {
        'caf\udce9': 'caf?',
        '_hidden': './_hidden',
        'a$b$c': 'a$b$c',
        'two\nlines': 'two?lines',
    }
    for name in names:
        write_session(tmp_path / name)
    html = render(Report([read_run(tmp_path / name) for name in names]))
    found = Page(html.encode().decode())
    for shown in names.values():
        # In the legends of all figures, too.
        assert found.text.count(shown) > len(found.all('svg')) * 2


def _colours() -> dict[str, dict[str, str]]:
    """The style sheet's colours of both schemes, by name."""
    style = (Path(page.__file__).parent / 'templates' / 'style.css').read_text(
        encoding='utf-8'
    )
    light, _, rest = style.partition('prefers-color-scheme: dark')
    dark, _, _ = rest.partition('* {')
    pattern = r'--([\w-]+): (#[0-9a-f]{6});'
    found = dict(re.findall(pattern, light))
    return dict(light=found, dark={**found, **dict(re.findall(pattern, dark))})


def _contrast(first: str, second: str) -> float:
    """WCAG 2.2's contrast ratio of two colours, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4
            for p in parts
        ]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear))

    dark, light = sorted(map(luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_contrast_is_that_of_wcag_aa(scheme: str) -> None:
    colours = _colours()[scheme]
    assert len(colours) == 14
    for behind in ('page', 'raised'):
        for name in ('text', 'muted', 'link', 'warn'):
            ratio = _contrast(colours[name], colours[behind])
            assert ratio >= 4.5, (name, behind, ratio)
    # Lines and markers of figures: 3 to 1.
    for name in (f'series-{k}' for k in range(6)):
        assert _contrast(colours[name], colours['page']) >= 3, name


def test_contrast_of_known_colours() -> None:
    assert _contrast('#000000', '#ffffff') == pytest.approx(21)
    # The lightest grey that WCAG allows for text on white.
    assert 4.5 <= _contrast('#767676', '#ffffff') < 4.6
