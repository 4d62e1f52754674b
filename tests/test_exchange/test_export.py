import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from tiny import MEAN, build_adversarial

from m2at_mm import exchange
from m2at_mm.compat import release
from m2at_mm.exchange import PlainClassifier, make_claim

IMAGES = torch.rand(4, 3, 32, 32)
needs_exporter = pytest.mark.skipif(
    release(torch.__version__) < [2, 6], reason='ONNX needs PyTorch 2.6'
)


@pytest.fixture(scope='module')
def wrapper() -> torch.nn.Module:
    return build_adversarial().eval()


@pytest.mark.parametrize('statistics', [True, False])
def test_plain_module_gives_the_wrappers_logits(statistics: bool) -> None:
    given = {} if statistics else dict(data_preprocessor=dict(num_classes=10))
    wrapper = build_adversarial(**given).eval()
    plain = PlainClassifier.of(wrapper)
    torch.testing.assert_close(plain(IMAGES), wrapper(IMAGES))


def test_state_dict(wrapper: torch.nn.Module, tmp_path: Path) -> None:
    model = PlainClassifier.of(wrapper)
    exchange.export_state_dict(model, IMAGES, tmp_path / 'x.pt')
    loaded = torch.load(tmp_path / 'x.pt', weights_only=True)
    assert loaded.keys() == model.state_dict().keys()
    assert loaded['mean'].flatten() * 255 == pytest.approx(MEAN)


@needs_exporter
@torch.no_grad()
def test_program_and_onnx_take_any_batch(
    wrapper: torch.nn.Module, cifar10_images: Callable, tmp_path: Path
) -> None:
    model = PlainClassifier.of(wrapper)
    exchange.export_program(model, IMAGES, tmp_path / 'x.pt2')
    exchange.export_onnx(model, IMAGES, tmp_path / 'x.onnx')
    program = torch.export.load(str(tmp_path / 'x.pt2')).module()
    session = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx'))
    for num in (1, 5):
        images, _ = cifar10_images(num)
        (by_onnx,) = session.run(['logits'], {'images': images.numpy()})
        expected = wrapper(images)
        for found in (program(images), torch.from_numpy(by_onnx)):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@needs_exporter
def test_wrong_suffix_and_missing_packages(
    wrapper: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    given = PlainClassifier.of(wrapper), IMAGES
    with pytest.raises(ValueError, match=r'must end in \.pt2'):
        exchange.export_program(*given, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'must end in \.onnx'):
        exchange.export_onnx(*given, tmp_path / 'x.pt')
    with pytest.raises(ImportError, match=r'm2at_mm\[export\]'):
        exchange.export_onnx(*given, tmp_path / 'x.onnx')


def _results(**changes: Any) -> dict[str, Any]:
    results = dict(
        clean=85.34,
        attacks=dict(pgd20=57.0, autoattack=53.416),
        num_samples=10000,
        threat_model=dict(norm='linf', eps=8 / 255),
        alarms=[dict(name='more_steps_help', message='...')],
    )
    return {**results, **changes}


def test_claim_has_robustbenchs_fields() -> None:
    about = dict(name='M2AT', architecture='ResNet-18')
    claim = make_claim(_results(), 'cifar10', **about)
    expected = dict(about, clean_acc='85.34', autoattack_acc='53.42', venue='')
    expected |= dict(eps='8/255', norm='Linf', num_samples=10000)
    assert claim.items() >= expected.items()
    assert claim['alarms'] == ['more_steps_help']
    # A radius in l2 is a number.
    threat = dict(norm='l2', eps=0.5)
    assert make_claim(_results(threat_model=threat), 'cifar10')['eps'] == '0.5'
    with pytest.raises(ValueError, match='needs autoattack'):
        make_claim(_results(attacks=dict(pgd20=57.0)), 'cifar10')
    with pytest.raises(ValueError, match="field='title' is unknown"):
        make_claim(_results(), 'cifar10', title='x')
