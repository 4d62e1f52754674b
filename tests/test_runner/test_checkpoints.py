from __future__ import annotations

import os
from pathlib import Path

from m2at_mm.runner.checkpoints import best_checkpoint, last_checkpoint


def test_newest_best_that_is_no_copy(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path) is None
    names = ('best_a_epoch_9', 'best_a_epoch_12', 'best_a_epoch_12-0123abcd')
    for when, name in enumerate(names):
        path = tmp_path / f'{name}.pth'
        path.touch()
        os.utime(path, (when, when))
    assert best_checkpoint(tmp_path) == tmp_path / 'best_a_epoch_12.pth'


def test_last_one_of_a_folder_that_was_moved(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_text('/gone/epoch_3.pth\n')
    assert last_checkpoint(tmp_path) is None
    (tmp_path / 'epoch_3.pth').touch()
    assert last_checkpoint(tmp_path) == tmp_path / 'epoch_3.pth'


def test_last_one_somewhere_else(tmp_path: Path) -> None:
    folder, place = tmp_path / 'run', tmp_path / 'other.pth'
    folder.mkdir()
    place.touch()
    (folder / 'last_checkpoint').write_text(str(place))
    assert last_checkpoint(folder) == place
