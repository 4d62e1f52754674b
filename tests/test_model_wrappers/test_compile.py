"""MMEngine's ``compile`` against eager training."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner
from tiny import classifier_cfg


def losses(work_dir: Path, width: int, **settings: Any) -> list[float]:
    """Of three epochs of an iteration each, with a validation."""
    torch._dynamo.reset()
    network = classifier_cfg(base_channels=width, stem_channels=width)
    settings |= dict(randomness=dict(seed=0), network=lambda _: network)
    runner = build_digits_runner(work_dir, 16, epochs=3, **settings)
    runner.train()
    hub = runner.message_hub
    assert len(hub.get_scalar('val/robust/pgd10').data[0]) == 3
    return hub.get_scalar('train/loss').data[0].tolist()


needs_compiler = pytest.mark.skipif(
    shutil.which('g++') is None, reason='no C++ compiler'
)
# The same draws as eager.
INDUCTOR = dict(backend='inductor', options=dict(fallback_random=True))


COMPILERS = [
    (4, dict(backend='aot_eager')),
    # PyTorch 2.14 crashes on the CPU where layers are narrower.
    pytest.param(16, INDUCTOR, marks=[pytest.mark.slow, needs_compiler]),
]


@pytest.mark.parametrize(('width', 'settings'), COMPILERS)
def test_compiled_losses_are_the_eager_ones(
    width: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    eager = losses(tmp_path / 'eager', width)
    compiled = losses(tmp_path / 'compiled', width, compile=settings)
    assert len(eager) == 3
    assert compiled == pytest.approx(eager, rel=1e-4)
