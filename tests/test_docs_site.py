"""The site: it builds, and what it says of the sources is so."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_support import DOCS, ROOT, load_script
from tools_support import clean_env

PACKAGE = ROOT / 'm2at_mm'
SOURCES = [*PACKAGE.rglob('*.py'), *(ROOT / 'tools').glob('*.py')]
FOR_ALL = {'registry', 'version', 'compat', 'structures', 'checks', 'files'}


def imports() -> set[tuple[str, str]]:
    """Pairs of parts of the package, of which one imports the other."""
    statement = r'^ *(?:from|import) m2at_mm(?:\.(\w+)| import ([\w, ]+))'
    found = set()
    for path in PACKAGE.rglob('*.py'):
        inner = path.relative_to(PACKAGE)
        part = inner.parts[0] if len(inner.parts) > 1 else path.stem
        for names in re.findall(statement, path.read_text('utf-8'), re.M):
            for target in re.sub(r' as \w+', '', ''.join(names)).split(', '):
                if part not in (target, '__init__') and target not in FOR_ALL:
                    found.add((part, target))
    return found


def test_the_drawing_has_every_import() -> None:
    drawing = (DOCS / 'images' / 'architecture.svg').read_text('utf-8')
    drawn = set(re.findall(r'class="name"[^>]*>(\w+)<', drawing))
    inits, modules = PACKAGE.glob('*/__init__.py'), PACKAGE.glob('[!_]*.py')
    parts = {path.parent.name for path in inits} | {p.stem for p in modules}
    assert drawn == parts - FOR_ALL
    arrow = r'data-from="(\w+)" data-to="(\w+)"'
    arrows = set(re.findall(arrow, drawing))
    assert arrows <= imports()
    ways = set(arrows)  # also along several arrows
    for _ in drawn:
        ways |= {(a, d) for a, b in ways for c, d in arrows if b == c}
    assert imports() <= ways
    assert not any(start == end for start, end in ways)


def test_every_message_of_troubleshooting_is_in_the_sources() -> None:
    page = (DOCS / 'troubleshooting.md').read_text('utf-8')
    quoted = re.findall(r'^### `([^`]*)`$', page, re.MULTILINE)
    assert len(quoted) == len(re.findall('^### ', page, re.MULTILINE)) > 20
    texts = [
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text('utf-8')))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for message in quoted:
        assert any(message in text for text in texts), message


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / 'mkdocs.yml').read_text('utf-8').partition('\nplugins:')[0]
    for page in DOCS.rglob('*.md'):
        name = page.relative_to(DOCS).as_posix()
        if name.startswith('results/compare_') or name == 'api/index.md':
            continue  # linked from the results; added by the hook
        assert re.search(rf'[-:] {re.escape(name)}$', nav, re.MULTILINE), name


def test_the_api_has_every_public_name() -> None:
    pytest.importorskip('material')  # with mkdocs: see the extra `docs`
    script = load_script('api_pages')
    parts = script.parts()
    modules = {'backbones', 'data_preprocessors', 'optim', 'structures'}
    assert parts.keys() == modules | {
        path.parent.name for path in PACKAGE.glob('*/__init__.py')
    }
    for part, tree in parts.items():
        module = importlib.import_module(f'm2at_mm.{part}')
        homes = re.findall('^::: (.*)$', script.page(part, tree), re.MULTILINE)
        names = {home.rpartition('.')[2] for home in homes}
        assert names == set(module.__all__)
        for home in homes:
            source, _, name = home.rpartition('.')
            defined = getattr(importlib.import_module(source), name)
            # A function may have the name of its module.
            assert defined is getattr(module, name)


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip('material')
    words = [sys.executable, '-m', 'mkdocs', 'build', '--strict']
    done = subprocess.run(
        [*words, '--site-dir', str(tmp_path / 'site')],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(clean_env(), NO_MKDOCS_2_WARNING='1'),
    )
    assert done.returncode == 0, done.stdout
    assert 'WARNING' not in done.stdout
    pages = list((tmp_path / 'site').rglob('*.html'))
    assert len(pages) > 40
    outside = r'="?(https?:)?//'
    source = rf'<(script|img|iframe)[^>]*src{outside}'
    link = rf'<link[^>]*rel="?(stylesheet|preconnect)[^>]*href{outside}'
    for page in pages:
        text = page.read_text('utf-8')
        assert not re.search(f'{source}|{link}|:class:`|:func:`', text)


def test_docstrings_become_markdown() -> None:
    pytest.importorskip('griffe')
    script = load_script('docstrings')
    text = 'See :func:`~a.b` and :class:`C`, d::\n\n    x = 1\n\nno::colons'
    assert script.to_markdown(f'{text}\n\nExample:\n') == (
        'See `a.b` and `C`, d:\n\n    x = 1\n\nno::colons\n\nExamples:\n'
    )
