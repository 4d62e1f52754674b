"""Work dirs as trainings leave them, without a training."""

import json
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).with_name('data')
LOG = (DATA / 'report_log.txt').read_text()
CONFIG = """\
model = dict(
    method=dict(type='m2at_mm.{method}', scale=1.5),
    threat_model=dict(norm='linf', eps='8/255'))
default_hooks = dict(checkpoint=dict(save_best='robust/pgd10'))
train_cfg = dict(by_epoch=True, max_epochs=4)
work_dir = 'somewhere'
"""
#: Robust accuracy that is best after epoch 2.
ROBUST = (20.0, 30.0, 25.0)


def write_session(
    folder: Path,
    start: str = '20260102_030405',
    epochs: Sequence[int] = (1, 2, 3),
    robust: Sequence[float] = ROBUST,
    method: str = 'M2AT',
) -> Path:
    """A start of a training of ten iterations an epoch; its scalars."""
    data = folder / start / 'vis_data'
    data.mkdir(parents=True)
    (folder / start / f'{start}.log').write_text(LOG)
    (data / 'config.py').write_text(CONFIG.format(method=method))
    text = ''
    for epoch, value in zip(epochs, robust):
        step = 10 * epoch - 5
        at = dict(epoch=epoch, iter=step, step=step)
        text += json.dumps(dict(lr=0.1, loss=2 / step, **at)) + '\n'
        figures = dict(clean=50 + value, pgd10=value, worst=value - 1)
        shown = {f'robust/{k}': v for k, v in figures.items()}
        text += json.dumps({**shown, 'step': epoch}) + '\n'
    for name in (start, 'scalars'):
        (path := data / f'{name}.json').write_text(text)
    return path


def results_of(attacks: dict, clean: float = 80.0, **more: Any) -> dict:
    """The least that ``results.json`` has, of 100 images."""
    figures = dict(clean=clean, attacks=attacks)
    figures.update(worst_case=min(attacks.values()), num_samples=100)
    threat_model = dict(norm='linf', eps=8 / 255)
    return dict(figures, threat_model=threat_model, alarms=[], **more)


def write_results(folder: Path, results: dict, **predictions: Any) -> None:
    """Write both files of an evaluation into a work dir."""
    (folder / 'results.json').write_text(json.dumps(results))
    if predictions:
        arrays = {k: np.array(v, np.int32) for k, v in predictions.items()}
        np.savez(folder / 'results.samples.npz', **arrays)  # type: ignore


class Page(HTMLParser):
    """A page, or the blocks of a part, checked when it is read.

    Attributes:
        elements (list[tuple[str, dict]]): Start tags with their attributes.
        text (str): Everything that is no tag.
        tables (list[list[list[str]]]): Tables of rows of cells.
    """

    def __init__(self, blocks: Iterable[str]) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._in_cell = '', False
        self.tables: list[list[list[str]]] = []
        self.feed(''.join(blocks))
        self.close()
        self._check()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {k: v or '' for k, v in attrs}))
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ('td', 'th')

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each element of a kind."""
        return [attrs for name, attrs in self.elements if name == tag]

    def _check(self) -> None:
        """Nothing external, a text for every picture, ids that are unique."""
        ids = [attrs['id'] for _, attrs in self.elements if 'id' in attrs]
        assert len(ids) == len(set(ids))
        links = ('src', 'href', 'xlink:href', 'srcset', 'action')
        for _, attrs in self.elements:
            for key, value in attrs.items():
                inner = value.startswith('data:') or value[1:] in ids
                assert inner or key not in links, value
                assert 'url(' not in value.replace('url(#', ''), value
        assert '@import' not in self.text and 'url(' not in self.text
        assert not self.all('script')
        assert all(attrs['alt'].strip() for attrs in self.all('img'))
        for attrs in self.all('svg'):
            assert attrs['role'] == 'img'
            assert set(attrs['aria-labelledby'].split()) <= set(ids)
        assert len(self.all('caption')) == len(self.all('table'))
