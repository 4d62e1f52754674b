import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from tiny import MEAN, build_adversarial

from m2at_mm import exchange
from m2at_mm.exchange import PlainClassifier


@pytest.fixture(scope='module')
def wrapper() -> torch.nn.Module:
    return build_adversarial().eval()


@pytest.mark.parametrize('statistics', [True, False])
def test_plain_module_gives_the_wrappers_logits(statistics: bool) -> None:
    given = {} if statistics else dict(data_preprocessor=dict(num_classes=10))
    wrapper = build_adversarial(**given).eval()
    images = torch.rand(4, 3, 32, 32)
    plain = PlainClassifier.of(wrapper)
    torch.testing.assert_close(plain(images), wrapper(images))


def test_state_dict_holds_weights_and_normalisation(
    wrapper: torch.nn.Module, tmp_path: Path
) -> None:
    model = PlainClassifier.of(wrapper)
    exchange.export_state_dict(
        model, torch.rand(2, 3, 32, 32), tmp_path / 'x.pt'
    )
    loaded = torch.load(tmp_path / 'x.pt', weights_only=True)
    assert loaded.keys() == model.state_dict().keys()
    assert loaded['mean'].flatten() * 255 == pytest.approx(MEAN)


@torch.no_grad()
def test_program_and_onnx_take_any_batch(
    wrapper: torch.nn.Module, cifar10_images: Callable, tmp_path: Path
) -> None:
    model = PlainClassifier.of(wrapper)
    exchange.export_program(
        model, torch.rand(4, 3, 32, 32), tmp_path / 'x.pt2'
    )
    exchange.export_onnx(model, torch.rand(4, 3, 32, 32), tmp_path / 'x.onnx')
    program = torch.export.load(str(tmp_path / 'x.pt2')).module()
    session = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx'))
    for num in (1, 5):
        images, _ = cifar10_images(num)
        (by_onnx,) = session.run(['logits'], {'images': images.numpy()})
        expected = wrapper(images)
        for found in (program(images), torch.from_numpy(by_onnx)):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_wrong_suffix_and_missing_packages(
    wrapper: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    model, images = PlainClassifier.of(wrapper), torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r'must end in \.pt2'):
        exchange.export_program(model, images, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'must end in \.onnx'):
        exchange.export_onnx(model, images, tmp_path / 'x.pt')
    with pytest.raises(ImportError, match=r'm2at_mm\[export\]'):
        exchange.export_onnx(model, images, tmp_path / 'x.onnx')
