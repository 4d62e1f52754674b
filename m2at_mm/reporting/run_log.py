"""What a training run left in its work dir."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from m2at_mm.files import best_checkpoint, last_checkpoint

_ENVIRONMENT = ('System environment:', 'Runtime environment:', 'Origin:')
_NOT_METRICS = ('time', 'data_time', 'step', 'epoch', 'iter', 'memory')
_RESULTS = ('clean', 'attacks', 'worst_case', 'num_samples', 'threat_model')

Points = dict[float, float]


@dataclass(frozen=True)
class RunLog:
    """A run as its files tell of it.

    Attributes:
        name (str): Of the folder.
        folder (Path): The work dir.
        config_file (Path): The dumped config of the training.
        config (dict): Its settings.
        unit (str): Of the curves' positions: ``'epoch'`` or ``'iteration'``.
        training (dict[str, Points]): Loss, lr and so on: value by position.
        validation (dict[str, Points]): ``robust/clean`` and so on, in per
            cent.
        environment (dict[str, str]): What the log says of versions, seed,
            commit and command.
        results (dict, optional): Of ``results.json``.
        predictions (dict[str, np.ndarray]): Of ``results.samples.npz``; empty
            if it is missing.
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
    results: dict[str, Any] | None
    predictions: dict[str, np.ndarray]
    checkpoint: Path | None

    @property
    def selected(self) -> str | None:
        """The validation figure that tells the best epoch, if there is one."""
        hooks = self.config.get('default_hooks') or {}
        wanted = (hooks.get('checkpoint') or {}).get('save_best')
        wanted = [wanted] if isinstance(wanted, str) else wanted or []
        robust = [
            name
            for name in self.validation
            if name.startswith('robust/') and name != 'robust/clean'
        ]
        names = [*wanted, *robust, *self.validation]
        return next((name for name in names if name in self.validation), None)


def read_runs(folders: Sequence[Path]) -> list[RunLog]:
    """Read several work dirs; see :func:`read_run`.

    Folders of one name are told apart by the folders that they are in.

    Args:
        folders (Sequence[Path]): The work dirs.

    Returns:
        list[RunLog]: In the same order.

    Raises:
        ValueError: A folder is given twice.
    """
    places = [folder.resolve() for folder in folders]
    twice = {place for place in places if places.count(place) > 1}
    if twice:
        raise ValueError(
            f'work dir {str(min(twice))!r} is given twice: name each run once'
        )
    names = [place.name for place in places]
    return [
        read_run(folder, f'{place.parent.name}/{place.name}')
        if names.count(place.name) > 1
        else read_run(folder)
        for folder, place in zip(folders, places)
    ]


def read_run(folder: Path, name: str | None = None) -> RunLog:
    """Read the work dir of a training.

    A run that was interrupted and resumed has a log for each start. They are
    joined; where two cover the same epochs, the later one counts.

    Args:
        folder (Path): The work dir.
        name (str, optional): What to call the run. Defaults to None, the
            folder's name.

    Returns:
        RunLog: Without results or predictions where those files are missing.

    Raises:
        FileNotFoundError: There is no such folder, or no log in it.
        ValueError: A file is there and can't be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f'work dir {str(folder)!r} is not a folder: give the --work-dir '
            'of a training'
        )
    sessions = sorted(folder.glob('*/vis_data/*.json'))
    # MMEngine writes the same records a second time, under the start's name.
    sessions = [
        path
        for path in sessions
        if path.name == 'scalars.json'
        or not path.with_name('scalars.json').exists()
    ]
    if not sessions:
        raise FileNotFoundError(
            f'work dir {str(folder)!r} has no log of a training, '
            '*/vis_data/scalars.json: give the --work-dir of tools/train.py'
        )
    per_epoch = None
    training: dict[str, Points] = {}
    validation: dict[str, Points] = {}
    for session in sessions:
        text = _read_log(session)
        found = re.findall(r'Epoch\(train\) +\[ *\d+\]\[ *\d+/(\d+)\]', text)
        per_epoch = int(found[-1]) if found else None
        _join(session, per_epoch, training, validation)
    config_file = sessions[-1].with_name('config.py')
    return RunLog(
        name=_shown(name or folder.resolve().name),
        folder=folder,
        config_file=config_file,
        config=_read_config(config_file),
        unit='epoch' if per_epoch else 'iteration',
        training=training,
        validation=validation,
        environment=_read_environment(text),
        results=_read_results(folder / 'results.json'),
        predictions=_read_predictions(folder / 'results.samples.npz'),
        checkpoint=best_checkpoint(folder) or last_checkpoint(folder),
    )


def _shown(name: str) -> str:
    """A name that pages and figures can show."""
    shown = ''.join(c if c.isprintable() else '?' for c in name)
    # Matplotlib leaves names with an underscore out of its legends.
    return f'./{shown}' if shown.startswith('_') else shown


def _read_log(session: Path) -> str:
    """The text log of a start; empty if it is gone."""
    start = session.parent.parent
    path = start / f'{start.name}.log'
    if not path.is_file():
        return ''
    return path.read_text(encoding='utf-8', errors='replace')


def _join(
    session: Path,
    per_epoch: int | None,
    training: dict[str, Points],
    validation: dict[str, Points],
) -> None:
    """Add a session's records; what it did again replaces what was there."""
    records = _read_records(session)
    starts = [
        _position(record, per_epoch) for record in records if 'iter' in record
    ]
    for points in (*training.values(), *validation.values()):
        for position in [p for p in points if starts and p >= starts[0]]:
            del points[position]
    for record in records:
        curves = training if 'iter' in record else validation
        for key, value in record.items():
            if key not in _NOT_METRICS and isinstance(value, (int, float)):
                at = _position(record, per_epoch)
                curves.setdefault(key, {})[at] = float(value)


def _position(record: dict[str, Any], per_epoch: int | None) -> float:
    """Epochs done, or iterations where the loop counts those."""
    if 'iter' in record and per_epoch:
        return float(record['iter'] / per_epoch)
    return float(record['step'])


def _read_records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # a run that goes on, or was killed
                break
            raise ValueError(
                f'line {number} of {path} is not JSON ({error.msg}): mend or '
                'remove the line'
            ) from error
        if not isinstance(record, dict) or 'step' not in record:
            raise ValueError(
                f'line {number} of {path} is no record of MMEngine, an object '
                "with 'step': remove the line"
            )
        records.append(record)
    return records


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is missing, the config that MMEngine dumps when a '
            'training starts: copy it there, e.g. from the work dir'
        )
    try:
        config: dict[str, Any] = Config.fromfile(path).to_dict()
    # A config is Python code and may raise anything.
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a config ({error}): put the config of '
            'the training there'
        ) from error
    return config


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


def _read_results(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    advice = 'write it anew with tools/test.py, or remove it'
    try:
        results = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f'{path} is not JSON ({error}): {advice}') from error
    missing = [
        key
        for key in _RESULTS
        if not isinstance(results, dict) or key not in results
    ]
    if missing:
        raise ValueError(f'{path} has no {missing[0]!r}: {advice}')
    return dict(results)


def _read_predictions(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'{path} cannot be read ({error}): write it anew with '
            'tools/test.py, or remove it'
        ) from error
