from __future__ import annotations

from config_coverage.attempt import Outcome
from config_coverage.page import to_markdown

OUTCOMES = [
    Outcome('resnet/a.py', '', 'works'),
    Outcome('resnet/b.py', '', 'works', 'float32'),
    Outcome('vgg/c.py', '', 'refused', 'several labels'),
    Outcome('vgg/d.py', '', 'refused', 'several labels'),
    Outcome('vit/e.py', '', 'fails', 'IndexError'),
]


def test_counts_and_reasons() -> None:
    lines = to_markdown(OUTCOMES, '# Coverage').splitlines()
    assert lines[0] == '# Coverage'
    assert [line.split('|')[2].strip() for line in lines[4:8]] == [*'2201']
    assert '| resnet | 2 |  |  |  |' in lines
    assert '| vgg |  | 2 |  |  |' in lines
    assert '| vit |  |  |  | 1 |' in lines
    at = lines.index('- several labels:')
    assert lines[at + 1 : at + 3] == ['    - `vgg/c.py`', '    - `vgg/d.py`']
    assert '- IndexError:' in lines
    assert '- `resnet/b.py`: float32' in lines
    assert not any(line.startswith('## Upstream') for line in lines)
