"""model-index.yml, as OpenMMLab's tools read it."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from docs_support import DOCS, ROOT, numbers
from modelindex.load_model_index import load

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
