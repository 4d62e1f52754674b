"""Fixtures that several test files share."""

from __future__ import annotations

import os
import tarfile
import tempfile
import weakref
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor, nn
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

# foolbox needs it where git is missing; set before a test imports foolbox.
os.environ.setdefault('GIT_PYTHON_REFRESH', 'quiet')
# Every attack of every test checks that it stayed inside ball and box.
os.environ.setdefault('M2AT_MM_DEBUG', '1')
# The tests' networks are too small to gain from more.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside the target and rename, so that parallel runs agree."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
        folder = Path(tmp, 'cifar10')
        with tarfile.open(archive) as tar:
            tar.extractall(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # Else another run was faster.
                raise


@pytest.fixture(autouse=True)
def own_message_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has a history of its own, as in a process of its own.

    MMEngine names it by the second: two runs of one second would share it.
    """
    build = Runner.build_message_hub

    def build_new(runner: Runner, settings: Any = None) -> MessageHub:
        MessageHub._instance_dict.pop(runner.experiment_name, None)
        return build(runner, settings)

    monkeypatch.setattr(Runner, 'build_message_hub', build_new)


@pytest.fixture(scope='session')
def cifar10_root() -> Path:
    """Folder of the real CIFAR-10 images, `{train,test}/<class>/*`."""
    if 'CIFAR10_ROOT' in os.environ:
        return Path(os.environ['CIFAR10_ROOT'])
    root = ROOT / 'data' / 'cifar10'
    archive = ROOT.parent / 'shared' / 'data' / 'cifar10-images.tar.xz'
    if not root.is_dir():
        if not archive.is_file():
            pytest.skip(f'no CIFAR-10 in $CIFAR10_ROOT, {root} or {archive}')
        _unpack(archive, root)
    return root


CifarImages = Callable[[int], tuple[Tensor, Tensor]]


@pytest.fixture(scope='session')
def cifar10_images(cifar10_root: Path) -> CifarImages:
    """Function of n: the first n test images, one of each class in turn.

    It returns images in [0, 1] of shape (n, 3, 32, 32), and labels (n, ).
    """

    def load(n: int) -> tuple[Tensor, Tensor]:
        folders = sorted((cifar10_root / 'test').iterdir())
        files = [sorted(folder.iterdir()) for folder in folders]
        labels = torch.arange(n) % len(folders)
        images = [
            np.array(Image.open(files[k % len(folders)][k // len(folders)]))
            for k in range(n)
        ]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return pixels.contiguous().float() / 255, labels

    return load


def _load_resnet18(width: int, state_dict: dict[str, Tensor]) -> nn.Module:
    """A CIFAR ResNet-18 from images in [0, 1] to logits.

    In eval mode and without gradients of the parameters.
    """
    import mmpretrain.models  # noqa: F401, registers what is built
    from mmpretrain.registry import MODELS

    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='mmpretrain.ResNet_CIFAR',
                depth=18,
                base_channels=width,
                stem_channels=width,
            ),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(
                type='mmpretrain.LinearClsHead',
                num_classes=10,
                in_channels=8 * width,
            ),
        )
    )
    model.load_state_dict(state_dict)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope='session')
def robust_model() -> nn.Module:
    """A narrow CIFAR-10 ResNet-18, trained by PGD-AT outside this project."""
    path = ROOT.parent / 'shared' / 'data' / 'plain_robust_resnet18_w16.pth'
    path = Path(os.environ.get('ROBUST_MODEL', path))
    if not path.is_file():
        pytest.skip(f'no robust model in {path}')
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    return _load_resnet18(16, checkpoint['state_dict'])


@pytest.fixture(scope='session')
def undefended_model() -> nn.Module:
    """The undefended CIFAR-10 ResNet-18 that pyautoattack ships."""
    spec = find_spec('pyautoattack')
    if spec is None or spec.origin is None:
        pytest.skip('pyautoattack, which ships the model, is not installed')
    path = Path(spec.origin).parent / 'examples' / 'model_test.pt'
    state_dict = torch.load(path, map_location='cpu', weights_only=True)
    return _load_resnet18(
        64, {_mmpretrain_key(key): value for key, value in state_dict.items()}
    )


def _mmpretrain_key(key: str) -> str:
    """`linear` is the head's `fc`, `shortcut` is `downsample`."""
    if key.startswith('linear.'):
        return key.replace('linear.', 'head.fc.')
    return 'backbone.' + key.replace('.shortcut.', '.downsample.')


@pytest.fixture(autouse=True)
def _end_data_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the data workers of a test with it.

    Where the garbage collector ends them, PyTorch waits 5 seconds for each.
    """
    # Not held: one that is not needed any more ends at once.
    made: list[weakref.ref[Any]] = []
    start = _MultiProcessingDataLoaderIter.__init__

    def noted(iterator: Any, loader: Any) -> None:
        made.append(weakref.ref(iterator))
        start(iterator, loader)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, '__init__', noted)
    yield
    for reference in made:
        iterator = reference()
        if iterator is not None:
            iterator._shutdown_workers()
