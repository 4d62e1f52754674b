from __future__ import annotations

from m2at_mm.coverage import Outcome, to_markdown

OUTCOMES = [
    Outcome('resnet/a.py', 'ImageClassifier', 'works'),
    Outcome('resnet/b.py', 'ImageClassifier', 'works', 'float32'),
    Outcome('vgg/c.py', 'ImageClassifier', 'refused', 'several labels'),
    Outcome('vgg/d.py', 'ImageClassifier', 'refused', 'several labels'),
    Outcome('vit/e.py', 'ImageClassifier', 'fails', 'IndexError'),
]


def test_counts_and_reasons() -> None:
    lines = to_markdown(OUTCOMES, '# Coverage').splitlines()
    assert lines[0] == '# Coverage'
    assert [line.split('|')[2].strip() for line in lines[4:8]] == [
        '2',
        '2',
        '0',
        '1',
    ]
    assert '| resnet | 2 |  |  |  |' in lines
    assert '| vgg |  | 2 |  |  |' in lines
    assert '| vit |  |  |  | 1 |' in lines
    at = lines.index('- several labels:')
    assert lines[at + 1 : at + 3] == ['    - `vgg/c.py`', '    - `vgg/d.py`']
    assert '- IndexError:' in lines
    assert '- `resnet/b.py`: float32' in lines
    assert not any(line.startswith('## Upstream') for line in lines)
