"""Code of the pages runs as it stands there; the site builds."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from digits_runner import build_digits_runner
from modelindex.load_model_index import load
from PIL import Image
from pytest import MonkeyPatch
from tools_support import DOCS, ROOT, clean_env, load_script, numbers

from m2at_mm.attacks import ThreatModel
from m2at_mm.cli import load_config
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.registry import TASK_UTILS

PAGE = (DOCS / 'extend.md').read_text('utf-8')
CODE = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
ATTACK, METHOD, CONFIG, SECTION = CODE


@pytest.fixture(scope='module', autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Registers the page's classes, for this file only."""
    folder = tmp_path_factory.mktemp('own')
    (folder / 'momentum_pgd.py').write_text(ATTACK)
    (folder / 'half_adversarial.py').write_text(METHOD)
    known = set(TASK_UTILS.module_dict)
    with MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name in ('momentum_pgd', 'half_adversarial'):
            import_module(name)
        yield
    for name in set(TASK_UTILS.module_dict) - known:
        TASK_UTILS.module_dict.pop(name)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_the_attack_finds_the_corner_of_a_linear_model(norm: str) -> None:
    images = torch.full((3, 1, 4, 4), 0.5)
    weight = torch.linspace(-1, 1, 16)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    network[1].weight.data = torch.stack([weight, -weight])
    attack = TASK_UTILS.build(dict(type='m2at_mm.MomentumPGD', steps=8))
    labels = torch.zeros(3, dtype=torch.long)
    change = attack(network, images, labels, ThreatModel(norm, 0.1)) - 0.5
    best = weight.sign() if norm == 'linf' else weight / weight.norm()
    best = -0.1 * best.expand(3, -1)
    assert torch.allclose(change.flatten(1), best, atol=1e-5)
    with pytest.raises(ValueError, match='decay=-1'):
        TASK_UTILS.build(dict(type='m2at_mm.MomentumPGD', decay=-1))


def test_both_train_and_validate(tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(CONFIG)
    model = load_config(str(tmp_path / 'config.py')).model
    own = ('train_attack', 'method', 'eval_attacks')
    settings = {name: dict(model[name], _delete_=True) for name in own}
    hooks = dict(checkpoint=dict(save_best='robust/momentum'))
    given = dict(model=settings, default_hooks=hooks)
    runner = build_digits_runner(tmp_path, 8, **given)
    assert isinstance(runner.model, AdversarialClassifier)
    attack = Mock(wraps=runner.model.attack_in_training)
    runner.model.attack_in_training = attack
    runner.train()
    assert [len(call.args[1]) for call in attack.mock_calls] == [4]
    scalars = runner.message_hub.log_scalars
    assert 0 <= scalars['val/robust/momentum'].current() <= 100


def test_the_section() -> None:
    names: dict = {}
    exec(SECTION, names)
    found = SimpleNamespace(results=dict(clean=80.0, worst_case=41.5))
    (table,) = names['gap'](SimpleNamespace(measured=dict(mine=found)))
    assert '<td>38.5</td>' in re.sub(r'<td[^>]*>', '<td>', table)


def test_example(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """On fewer images, for one epoch."""
    script = DOCS / 'example.py'
    code = script.read_text('utf-8')
    val = "'val_dataloader.dataset.indices': "
    for given, small in (
        ("'train_cfg.max_epochs': 2", "'train_cfg.max_epochs': 1"),
        (f'{val}50', f"{val}10, 'train_dataloader.dataset.indices': 64"),
        ('num_samples=100', 'num_samples=20'),
    ):
        assert code.count(given) == 1
        code = code.replace(given, small)
    monkeypatch.setattr(sys, 'argv', [str(script), str(tmp_path)])
    exec(compile(code, str(script), 'exec'), {'__name__': '__main__'})
    assert 'largest change: 32.0/255' in capsys.readouterr().out
    results = json.loads((tmp_path / 'results.json').read_text('utf-8'))
    assert list(results['attacks']) == ['fgsm', 'pgd20', 'cw20']
    assert results['num_samples'] == 20
    assert Image.open(tmp_path / 'masks.png').width > 500


PACKAGE = ROOT / 'm2at_mm'
SOURCES = [*PACKAGE.rglob('*.py'), *(ROOT / 'tools').glob('*.py')]
FOR_ALL = {'registry', 'version', 'compat', 'structures', 'checks', 'files'}
FOR_ALL |= {'checkpoint_files'}


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
    trees = [ast.parse(path.read_text('utf-8')) for path in SOURCES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    constants = [one.value for one in nodes if isinstance(one, ast.Constant)]
    texts = [value for value in constants if isinstance(value, str)]
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
    words += ['--site-dir', str(tmp_path / 'site')]
    both: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    both.update(cwd=ROOT, env=dict(clean_env(), NO_MKDOCS_2_WARNING='1'))
    done = subprocess.run(words, **both, text=True)
    assert done.returncode == 0, done.stdout
    assert 'WARNING' not in done.stdout
    site = tmp_path / 'site'
    assert (site / 'search' / 'search_index.js').is_file()  # of opened files
    pages = list(site.rglob('*.html'))
    assert len(pages) > 40
    outside = r'="?(https?:)?//'
    source = rf'<(script|img|iframe)[^>]*src{outside}'
    link = rf'<link[^>]*rel="?(stylesheet|preconnect)[^>]*href{outside}'
    for page in pages:
        text = page.read_text('utf-8')
        assert not re.search(f'{source}|{link}|:class:`|:func:`', text)
        for script in re.findall('<script src="([^"?]*)', text):
            # The page of errors names files as from the root.
            root = site if script.startswith('/') else page.parent
            assert (root / script.lstrip('/')).is_file(), (page, script)


def test_docstrings_become_markdown() -> None:
    pytest.importorskip('griffe')
    script = load_script('docstrings')
    text = 'See :func:`~a.b` and :class:`C`, d::\n\n    x = 1\n\nno::colons'
    assert script.to_markdown(f'{text}\n\nExample:\n') == (
        'See `a.b` and `C`, d:\n\n    x = 1\n\nno::colons\n\nExamples:\n'
    )


INDEX = ROOT / 'model-index.yml'
IMPORTED = yaml.safe_load(INDEX.read_text())['Import']
METAFILES = [ROOT / path for path in IMPORTED]


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
    files = DOCS.glob('results/**/*.json')
    every = numbers([json.loads(file.read_text()) for file in files])
    measured = {round(number, 2) for number in every}
    for number in numbers(yaml.safe_load(path.read_text())):
        assert round(number, 2) in measured
