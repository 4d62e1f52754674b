"""Fixtures that several test files share."""

import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

# foolbox needs it where git is missing; set before a test imports foolbox.
os.environ.setdefault('GIT_PYTHON_REFRESH', 'quiet')
# Every attack of every test checks that it stayed inside ball and box.
os.environ.setdefault('M2AT_MM_DEBUG', '1')
# The tests' networks are too small to gain from more.
torch.set_num_threads(1)

DATA = Path(__file__).with_name('data').resolve()


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
    """Folder of real CIFAR-10 images, `{train,test}/<class>/*`.

    At least 20 test images of each class and 12 training images.
    """
    return Path(os.environ.get('CIFAR10_ROOT', DATA / 'cifar10'))


CifarImages = Callable[[int], tuple[Tensor, Tensor]]


@pytest.fixture(scope='session')
def cifar10_images(cifar10_root: Path) -> CifarImages:
    """Function of n: the first n test images, one of each class in turn.

    It returns images in [0, 1] of shape (n, 3, 32, 32), and labels (n, ).
    """
    from tiny import read_images

    return partial(read_images, cifar10_root / 'test')


@pytest.fixture(scope='session')
def robust_model() -> nn.Module:
    """A narrow robust CIFAR-10 ResNet-18, see tests/data/README.md."""
    from tiny import load_network

    path = os.environ.get('ROBUST_MODEL', DATA / 'robust_resnet18_w8.pth')
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    return load_network(checkpoint['state_dict'])


@pytest.fixture(scope='session')
def undefended_model() -> nn.Module:
    """The undefended CIFAR-10 ResNet-18 that pyautoattack ships."""
    from tiny import load_network

    spec = find_spec('pyautoattack')
    if spec is None or spec.origin is None:
        pytest.skip('pyautoattack, which ships the model, is not installed')
    path = Path(spec.origin).parent / 'examples' / 'model_test.pt'
    state_dict = torch.load(path, map_location='cpu', weights_only=True)
    renamed = {}
    for key, value in state_dict.items():
        name = 'backbone.' + key.replace('.shortcut.', '.downsample.')
        renamed[name.replace('backbone.linear.', 'head.fc.')] = value
    return load_network(renamed)


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
    for iterator in filter(None, [reference() for reference in made]):
        iterator._shutdown_workers()
