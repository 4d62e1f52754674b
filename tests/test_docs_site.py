"""The site: it builds, and what it says of the sources is so."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from docs_support import DOCS, ROOT, load_script, numbers
from modelindex.load_model_index import load
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
            for target in ''.join(names).split(', '):
                if part not in (target, '__init__') and target not in FOR_ALL:
                    found.add((part, target))
    return found


def test_the_drawing_has_every_import() -> None:
    drawing = (DOCS / 'images' / 'architecture.svg').read_text('utf-8')
    drawn = set(re.findall(r'class="name"[^>]*>(\w+)<', drawing))
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert drawn == {*folders, 'cli'} - FOR_ALL
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
    packages = list(script.packages())
    assert {one.name for one in packages} == {
        path.parent.name for path in PACKAGE.glob('*/__init__.py')
    }
    for package in packages:
        module = importlib.import_module(f'm2at_mm.{package.name}')
        homes = re.findall('^::: (.*)$', script.page(package), re.MULTILINE)
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


INDEX = ROOT / 'model-index.yml'
METAFILES = [
    ROOT / path for path in yaml.safe_load(INDEX.read_text())['Import']
]


def test_openmmlab_reads_every_config_once() -> None:
    pages = {path.parent for path in DOCS.glob('methods/*/README.md')}
    assert sorted(METAFILES) == sorted(page / 'metafile.yml' for page in pages)
    index = load(str(INDEX))
    index.build_models_with_collections()
    configs = Counter(model.config for model in index.models)
    shipped = {f'configs/{path.name}' for path in ROOT.glob('configs/*.py')}
    assert configs == Counter(shipped)
    for model in index.models:
        assert model.name == Path(model.config).stem
        assert (ROOT / model.config).is_file()


@pytest.mark.parametrize('path', METAFILES, ids=lambda path: path.parent.name)
def test_metafile(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    (collection,) = content['Collections']
    page = ROOT / collection['README']
    assert page == path.parent / 'README.md'
    text = page.read_text('utf-8')
    listed = re.findall(r'^\| `(configs/[^`]*)`', text, re.MULTILINE)
    assert listed == [model['Config'] for model in content['Models']]
    for model in content['Models']:
        assert model['In Collection'] == collection['Name']
        assert set(model['Metadata']) <= {'Training Data', 'Architecture'}
    if 'Paper' in collection:
        assert f'({collection["Paper"]["URL"]})' in text


@pytest.mark.parametrize('path', METAFILES, ids=lambda path: path.parent.name)
def test_every_number_was_measured(path: Path) -> None:
    measured = {
        round(number, 2)
        for file in DOCS.glob('results/**/*.json')
        for number in numbers(json.loads(file.read_text()))
    }
    for number in numbers(yaml.safe_load(path.read_text())):
        assert round(number, 2) in measured
