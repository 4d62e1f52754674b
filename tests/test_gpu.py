"""What only a GPU shows; the file needs few packages beside the project."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from mmengine.registry import init_default_scope
from tiny import ATTACKS, METHODS, NORMS, build_adversarial
from torch import Tensor

from m2at_mm.attacks import PGD, AutoAttack, ThreatModel
from m2at_mm.registry import OPTIM_WRAPPERS
from m2at_mm.runner.process_state import process_state, set_process_state
from m2at_mm.structures import BatchLabels

NO_GPU = not torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason='no GPU')]

CASES = [(k, 'kl pgd' if k == 'trades' else 'pgd') for k in METHODS]
CASES += [('pgd-at', 'folded pgd'), ('pgd-at', 'fgsm-rs')]
# float16 is scaled, for which the host reads whether a gradient overflowed.
WRAPPERS: dict[str, dict] = dict(float32=dict(type='OptimWrapper'))
for half in ('float16', 'bfloat16'):
    WRAPPERS[half] = dict(type='AmpOptimWrapper', dtype=half)
WRAPPERS['bfloat16']['loss_scale'] = dict(enabled=False)


@pytest.fixture(autouse=True)
def _like_training(monkeypatch: pytest.MonkeyPatch) -> None:
    init_default_scope('mmpretrain')
    # Its check of ball and box reads; the tests that need it set it.
    monkeypatch.delenv('M2AT_MM_DEBUG', raising=False)


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """PyTorch raises where the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


def _model(
    method: str = 'm2at', norm: str = 'linf', attack: str = 'pgd'
) -> Any:
    free = method == 'free-at'  # which is its own attack
    settings = dict(method=METHODS[method], threat_model=NORMS[norm])
    settings['train_attack'] = None if free else ATTACKS[attack]
    return build_adversarial(**settings).cuda().train()


def _wrapper(model: Any, cfg: dict[str, Any]) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return OPTIM_WRAPPERS.build(dict(cfg, optimizer=optimizer))


def _whole(seed: int = 0) -> dict[str, Any]:
    batch = tiny.whole_batch(num=8, seed=seed)
    return {name: value.pin_memory() for name, value in batch.items()}


def _evaluated(norm: str = 'linf') -> tuple[Any, Tensor, Tensor]:
    """A model, and the images and labels of a batch."""
    model = _model('pgd-at', norm).eval()
    batch = model.data_preprocessor(_whole())
    return model, batch['inputs'], batch['data_samples'].labels


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize(('method', 'attack'), CASES)
def test_no_waits(method: str, attack: str, norm: str, precision: str) -> None:
    model = _model(method, norm, attack)
    wrapper = _wrapper(model, WRAPPERS[precision])
    # The first one allocates, and chooses algorithms.
    model.train_step(_whole(), wrapper)
    with no_waits():
        log = model.train_step(_whole(1), wrapper)
    assert torch.isfinite(log['loss'])


def test_a_wait_is_caught() -> None:
    images = torch.rand(2, device='cuda')
    with pytest.raises(RuntimeError, match='synchroniz'), no_waits():
        images.sum().item()


MIXED: list = [(*case, dict(accumulative_counts=2)) for case in CASES]
MIXED += [('m2at', 'pgd', dict(type='m2at_mm.AWPAmpOptimWrapper'))]


@pytest.mark.parametrize('precision', ['float16', 'bfloat16'])
@pytest.mark.parametrize(('method', 'attack', 'settings'), MIXED)
def test_every_method_with_mixed_precision(
    method: str, attack: str, settings: dict[str, Any], precision: str
) -> None:
    model = _model(method, attack=attack)
    wrapper = _wrapper(model, WRAPPERS[precision] | settings)
    for seed in range(4):
        log = model.train_step(tiny.raw_batch(seed=seed), wrapper)
        assert torch.isfinite(log['loss'])
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('precision', WRAPPERS)
def test_attacks_stay_inside_ball_and_box(norm: str, precision: str) -> None:
    model, images, labels = _evaluated(norm)
    attack, threat = PGD(steps=10, restarts=2), model.threat_model
    with _wrapper(model, WRAPPERS[precision]).optim_context(model):
        found = attack(model, images, labels, threat)
    assert threat.ball(images).contains(found).all()
    assert (found != images).any()


def test_the_gpu_finds_what_the_cpu_finds(monkeypatch: Any) -> None:
    """Folded or not, with TF32 off: the same images but for rounding."""
    model, images, labels = _evaluated()
    attack, threat = PGD(steps=8, random_start=False), model.threat_model
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cudnn, 'allow_tf32', False)
        on_gpu = attack(model, images, labels, threat).cpu()
    on_cpu = attack(model.cpu(), images.cpu(), labels.cpu(), threat)
    assert (on_gpu - on_cpu).abs().gt(1e-3).float().mean() < 0.02


@pytest.mark.parametrize('loss', ['ce', 'kl'])
@pytest.mark.parametrize('mode', ['default', 'reduce-overhead'])
def test_compiled(mode: str, loss: str) -> None:
    torch._dynamo.reset()
    model = build_adversarial().cuda()
    images = torch.rand(8, 3, 32, 32, device='cuda')
    labels = torch.arange(8, device='cuda')
    found = []
    for chosen in (None, mode, mode, mode):
        torch.manual_seed(0)
        attack = PGD(steps=3, loss=loss, restarts=2, compile_mode=chosen)
        found.append(attack(model, images, labels, model.threat_model))
    assert all((one != found[0]).float().mean() < 0.02 for one in found[1:])


def test_autoattack_in_half_precision_is_that_in_float32() -> None:
    pytest.importorskip('pyautoattack')
    model, images, _ = _evaluated()
    batch = images, model(images).argmax(1), ThreatModel()
    attack = AutoAttack(['apgd-ce'])
    whole = attack(model, *batch)
    with torch.autocast('cuda', torch.bfloat16):
        half = attack(model, *batch)
    assert (half - whole).abs().gt(1e-3).float().mean() < 0.02


def test_labels_are_pinned() -> None:
    labels, scores = torch.tensor([1, 2]), torch.eye(2)
    pinned = BatchLabels(labels, scores).pin_memory()
    assert pinned.labels.is_pinned() and pinned.target.is_pinned()
    assert torch.equal(pinned.target, scores)


def _weights_after(steps: int, resumed_at: int) -> list[Tensor]:
    """Train; at a step, go on in a new model from what a checkpoint keeps."""
    model = _model()
    wrapper = _wrapper(model, WRAPPERS['bfloat16'])
    torch.manual_seed(0)
    for step in range(steps):
        if step == resumed_at:
            old, optimizer, kept = model, wrapper, process_state(model)
            torch.manual_seed(1)
            model = _model()
            wrapper = _wrapper(model, WRAPPERS['bfloat16'])
            model.load_state_dict(old.state_dict())
            wrapper.load_state_dict(optimizer.state_dict())
            set_process_state(model, kept)
        model.train_step(_whole(step), wrapper)
    return [parameter.detach() for parameter in model.parameters()]


def test_deterministic_runs_go_on_bit_for_bit(monkeypatch: Any) -> None:
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    torch.use_deterministic_algorithms(True)
    try:
        whole, resumed = _weights_after(4, -1), _weights_after(4, 2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed))


def test_a_work_dir_s_checkpoint_goes_from_gpu_to_cpu(tmp_path: Path) -> None:
    model = _model()
    torch.save(model.state_dict(), tmp_path / 'gpu.pth')
    loaded = torch.load(tmp_path / 'gpu.pth', map_location='cpu')
    other = build_adversarial(seed=1).eval()
    other.load_state_dict(loaded)
    images = torch.rand(2, 3, 32, 32)
    found = model.eval()(images.cuda()).cpu()
    assert torch.allclose(found, other(images), atol=1e-2)
