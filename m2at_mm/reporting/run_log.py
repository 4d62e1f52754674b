"""The files that a training leaves in its work dir."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmpretrain.registry import DATASETS

from m2at_mm.files import best_checkpoint, last_checkpoint

_ENVIRONMENT = ('System environment:', 'Runtime environment:', 'Origin:')
_NOT_METRICS = ('time', 'data_time', 'step', 'epoch', 'iter', 'memory')
_RESULTS = ('clean', 'attacks', 'worst_case', 'num_samples', 'threat_model')

Points = dict[float, float]


@dataclass(frozen=True)
class RunLog:
    """A training, as the files in its work dir describe it.

    Attributes:
        config_file (Path): The dumped config of the training.
        unit (str): Of the curves' positions, ``'epoch'`` or ``'iteration'``.
        training (dict): Loss, lr and so on: value by position.
        validation (dict): ``robust/clean`` and so on, in per cent.
        environment (dict): Versions, seed, commit and command, as far as the
            log has them.
        evaluations (list[Path]): Results of ``tools/test.py`` in the work
            dir, the newest first.
        results (dict, optional): Content of the newest.
        predictions (dict): Of the ``.samples.npz`` beside it.
        checkpoint (Path, optional): The best, else the last one.
    """

    name: str
    folder: Path
    config_file: Path
    config: dict[str, Any]
    unit: str
    training: dict[str, Points]
    validation: dict[str, Points]
    environment: dict[str, str]
    evaluations: list[Path]
    results: dict[str, Any] | None
    predictions: dict[str, np.ndarray]
    checkpoint: Path | None

    @property
    def last_checkpoint(self) -> Path | None:
        """That of the training's end, if it is still there."""
        return last_checkpoint(self.folder)

    @property
    def selected(self) -> str | None:
        """The validation metric that selects the best epoch, if any."""
        hooks = self.config.get('default_hooks') or {}
        wanted = (hooks.get('checkpoint') or {}).get('save_best')
        wanted = [wanted] if isinstance(wanted, str) else wanted or []
        names = sorted(  # robust accuracies first
            self.validation,
            key=lambda name: name[:7] != 'robust/' or name == 'robust/clean',
        )
        return next((one for one in [*wanted, *names] if one in names), None)

    @property
    def best_and_last(self) -> tuple[float, float] | None:
        """Positions of :attr:`selected` where it is best, and of its last.

        A loss is best where it is lowest. Of equals the first one is best.
        """
        if self.selected is None:
            return None
        points = self.validation[self.selected]
        choose = min if 'loss' in self.selected else max
        return choose(sorted(points), key=points.__getitem__), max(points)

    @property
    def end(self) -> float:
        """The last position in the log."""
        curves = [*self.training.values(), *self.validation.values()]
        return max((max(points) for points in curves if points), default=0.0)


def read_runs(folders: Sequence[Path]) -> list[RunLog]:
    """Read work dirs, those of the same name told apart by their parents.

    Raises:
        ValueError: A folder is given twice.
    """
    places = [folder.resolve() for folder in folders]
    if twice := {place for place in places if places.count(place) > 1}:
        raise ValueError(
            f'work dir {str(min(twice))!r} is given twice: name each run once'
        )
    names = [place.name for place in places]
    for k, place in enumerate(places):
        if [one.name for one in places].count(place.name) > 1:
            names[k] = f'{place.parent.name}/{place.name}'
    return [*map(read_run, folders, names)]


def read_run(folder: Path, name: str | None = None) -> RunLog:
    """Read the work dir of a training, by default under the folder's name.

    A run that was interrupted and resumed has a log for each start. They are
    joined; where two cover the same epochs, the later one counts.

    Raises:
        FileNotFoundError: There is no such folder, or no log in it.
        ValueError: A file exists and cannot be read.
    """
    sessions = _sessions(folder)
    curves: tuple[dict[str, Points], dict[str, Points]] = {}, {}
    for session in sessions:
        start = session.parent.parent
        log = start / f'{start.name}.log'
        text = log.read_text('utf-8', 'replace') if log.is_file() else ''
        found = re.findall(r'Epoch\(train\) +\[ *\d+\]\[ *\d+/(\d+)\]', text)
        per_epoch = int(found[-1]) if found else None
        _join(_read_records(session, per_epoch), *curves)
    config_file = sessions[-1].with_name('config.py')
    advice = 'put the config of the training there'
    config = _read(config_file, lambda: Config.fromfile(config_file), advice)
    evaluations = _find_evaluations(folder)
    return RunLog(
        _shown(name or folder.resolve().name),
        folder,
        config_file,
        config.to_dict(),
        'epoch' if per_epoch else 'iteration',
        *curves,
        _read_environment(text),
        evaluations,
        *_read_newest(evaluations),
        best_checkpoint(folder) or last_checkpoint(folder),
    )


def _sessions(folder: Path) -> list[Path]:
    """The scalars of each start of a training."""
    place = f'work dir {str(folder)!r}'
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{place} is not a folder: give the --work-dir of a training'
        )
    # MMEngine writes the same records a second time, under the start's name.
    sessions = [
        path
        for path in sorted(folder.glob('*/vis_data/*.json'))
        if path.name == 'scalars.json'
        or not path.with_name('scalars.json').exists()
    ]
    if not sessions:
        raise FileNotFoundError(
            f'{place} has no log of a training, */vis_data/scalars.json: give '
            'the --work-dir of tools/train.py'
        )
    return sessions


def _shown(name: str) -> str:
    """A name that pages and figures can show."""
    shown = ''.join(c if c.isprintable() else '?' for c in name)
    # Matplotlib leaves names with an underscore out of its legends.
    return f'./{shown}' if shown.startswith('_') else shown


def _read(path: Path, read: Callable[[], Any], advice: str) -> Any:
    """Turn whatever goes wrong into an error with advice."""
    try:
        return read()
    # A config is Python code and may raise anything.
    except Exception as error:
        told = f'{path} cannot be read ({error}): {advice}'
        raise ValueError(told) from error


def _read_records(
    path: Path, per_epoch: int | None
) -> list[tuple[float, dict[str, Any]]]:
    """The records of a start by position: epochs done, or iterations."""
    lines = path.read_text('utf-8', 'replace').splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            position = float(record['step'])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and isinstance(error, ValueError):
                break  # still running, or killed
            raise ValueError(
                f'line {number} of {path} is no record of MMEngine, a JSON '
                f"object with 'step' ({error}): mend or remove the line"
            ) from error
        if 'iter' in record and per_epoch:
            position = record['iter'] / per_epoch
        records.append((position, record))
    return records


def _join(
    records: list[tuple[float, dict[str, Any]]],
    training: dict[str, Points],
    validation: dict[str, Points],
) -> None:
    """Add the records of a start; what it repeated replaces the old ones."""
    start = next((at for at, record in records if 'iter' in record), math.inf)
    for curves in (training, validation):
        for key, points in curves.items():
            curves[key] = {p: v for p, v in points.items() if p < start}
    for at, record in records:
        curves = training if 'iter' in record else validation
        for key, value in record.items():
            if key not in _NOT_METRICS and isinstance(value, (int, float)):
                curves.setdefault(key, {})[at] = float(value)


def _read_environment(text: str) -> dict[str, str]:
    """Lines 'key: value' of the log's blocks on the environment."""
    found: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        if line.strip().endswith(_ENVIRONMENT):
            inside = True
        elif line.startswith('----') or re.match(r'\d\d/\d\d ', line):
            inside = False
        elif inside:
            match = re.fullmatch(r' {4}([\w.][^:]*): (.*)', line)
            if match is not None and 'compiling details' not in match[1]:
                found[match[1]] = match[2].strip()
    return found


def _find_evaluations(folder: Path) -> list[Path]:
    """Results in a folder and those below, the newest first.

    Those of other trainings below are not among them, a ``results.json`` of
    the folder that cannot be read is.
    """
    found = []
    others = [path.parent for path in folder.glob('*/**/last_checkpoint')]
    for path in folder.rglob('*.json*'):  # what was replaced is *.json.old
        if any(other in path.parents for other in others):
            continue
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, OSError):
            content = None
        named = path == folder / 'results.json'
        if named or (
            isinstance(content, dict) and set(_RESULTS) <= {*content}
        ):
            found.append(path)
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _read_newest(
    evaluations: Sequence[Path],
) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """Results, and predictions as far as they are there."""
    if not evaluations:
        return None, {}
    path = evaluations[0]
    advice = 'write it anew with tools/test.py, or remove it'
    results = _read(path, lambda: dict(json.loads(path.read_bytes())), advice)
    for key in _RESULTS:
        if key not in results:
            raise ValueError(f'{path} has no {key!r}: {advice}')
    if not (samples := path.with_suffix('.samples.npz')).exists():
        return results, {}
    return results, _read(samples, lambda: dict(np.load(samples)), advice)


def class_names(config: dict[str, Any]) -> Sequence[str] | None:
    """Names of the test dataset's classes, without the data themselves."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    given = (dataset.get('metainfo') or {}).get('classes')
    kind = dataset.get('type')
    if given is None and kind is not None:
        kind = kind if isinstance(kind, type) else DATASETS.get(str(kind))
        given = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    return given if isinstance(given, (list, tuple)) else None
