"""Checkpoints of a training load where this package is not imported."""

import copy
import re
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from digits_runner import build_digits_runner
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from tiny import classifier_cfg

from m2at_mm import checkpoint_files
from m2at_mm.runner import process_state
from m2at_mm.runner.process_state import make_plain, restore

# What a user of stock mmpretrain calls with a config and a checkpoint; saves
# the logits of an image in 0-255.
STOCK = """
import sys, numpy as np, torch
out, config, *files = sys.argv[1:]
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmpretrain.apis import ImageClassificationInferencer, init_model
from mmpretrain.registry import MODELS
image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), 'uint8')
pixels, logits = torch.from_numpy(image).permute(2, 0, 1)[None], []
for file in files:
    torch.load(file, weights_only=True)
    (found,) = ImageClassificationInferencer(
        config, pretrained=file, device='cpu')(image)
    model = init_model(config, file, device='cpu')
    load_checkpoint(model, file, strict=True)
    print(found['pred_label'], *found['pred_scores'].round(4))
    inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    logits.append(model(inputs).detach())
torch.save(logits, out)
assert 'm2at_mm' not in sys.modules
"""


def test_checkpoints_load_into_stock_mmpretrain(tmp_path: Path) -> None:
    schedule = dict(type='OneCycleLR', eta_max=0.1, total_steps=2)
    hooked = dict(custom_hooks=[dict(type='EMAHook')])
    hooked['param_scheduler'] = [schedule]
    runner = build_digits_runner(tmp_path, 10, epochs=2, **hooked)
    runner.message_hub.update_info('threshold', np.float32(0.5))
    runner.train()
    stock = tmp_path / 'stock.py'
    preprocessor = dict(mean=[127.5], std=[127.5])
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    model = dict(classifier_cfg(), data_preprocessor=preprocessor)
    settings = dict(default_scope='mmpretrain', model=model)
    settings['test_dataloader'] = dict(dataset=dict(pipeline=pipeline))
    Config(settings).dump(stock)
    files = [*tmp_path.glob('best_*.pth'), *tmp_path.glob('epoch_*.pth')]
    assert len(files) >= 2
    assert any(re.search(r'-\w{8}\.pth$', file.name) for file in files)
    out = tmp_path / 'logits.pth'
    command = [sys.executable, '-W', 'ignore', '-c', STOCK, out, stock, *files]
    env = dict(PATH='', OMP_NUM_THREADS='1', MPLCONFIGDIR=str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split('\n')) > len(files)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), 'uint8')
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    for file, logits in zip(files, torch.load(out), strict=True):
        weights = torch.load(file, weights_only=True)['state_dict']
        runner.model.load_state_dict(weights, strict=True)
        with torch.no_grad():
            expected = runner.model.eval()(pixels / 255)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def buffer(values: list[Any]) -> HistoryBuffer:
    return HistoryBuffer(values, [2] * len(values), max_length=7)


CONTENT: dict[str, Any] = {
    'history': buffer([0.5, 2.0]),
    'history of integers': buffer([1, 2]),
    'empty history': buffer([]),
    'array': np.arange(6, dtype=np.float32).reshape(2, 3),
    'nested': {'a': [np.zeros(2), (1, 'x')], 3: {1, 2}},
    'scalars': [np.float32(0.25), np.int64(3), np.bool_(True), np.str_('x')],
    'plain': [None, True, 1, 2.5, 'x', b'x', torch.ones(2), torch.float16],
    'dicts': [OrderedDict(a=1), Counter([3, 3])],
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, HistoryBuffer):
        assert one.max_length == other.max_length
        return same(one.data, other.data)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return same([*one.items()], [*other.items()])
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


@pytest.fixture
def nothing_allowed() -> Iterator[None]:
    """The list, which PyTorch has from 2.4 on, without what we allow."""
    lists = torch.serialization
    allowed = getattr(lists, 'get_safe_globals', list)()
    getattr(lists, 'clear_safe_globals', list)()
    yield
    if allowed:
        lists.add_safe_globals(allowed)


@pytest.mark.usefixtures('nothing_allowed')
@pytest.mark.parametrize('name', CONTENT)
@pytest.mark.parametrize('part', ['log_scalars', 'optimizer', 'hook_states'])
def test_replaced_parts_return(part: str, name: str, tmp_path: Path) -> None:
    checkpoint: dict[str, Any] = {part: CONTENT[name]}
    if part == 'log_scalars':
        checkpoint = dict(message_hub={part: dict(x=CONTENT[name])})
    original = copy.deepcopy(checkpoint)
    make_plain(checkpoint)
    torch.save(checkpoint, tmp_path / 'x.pth')
    # Which hold a set and bytes, that PyTorch loads from 2.6 on.
    if name in ('nested', 'plain') and not checkpoint_files.RESTRICTS_ITSELF:
        loaded = checkpoint_files.read(tmp_path / 'x.pth')
    else:
        loaded = torch.load(tmp_path / 'x.pth', weights_only=True)
    restore(loaded)
    assert same(original, loaded)
    restore(original)  # an older checkpoint, saved as it was
    assert same(original, loaded)


def test_what_cannot_be_saved_is_named(monkeypatch: Any) -> None:
    log = Mock()
    monkeypatch.setattr(process_state, 'print_log', log)
    hub = dict(runtime_info=dict(path=Path('x'), epoch=1))
    checkpoint: dict[str, Any] = dict(message_hub=hub, meta=dict(a=Path('y')))
    make_plain(checkpoint)
    assert checkpoint['meta'] == dict(a=Path('y'))
    assert checkpoint['message_hub'] == dict(runtime_info=dict(epoch=1))
    assert hub['runtime_info'].keys() == {'path', 'epoch'}  # the live one
    first, second = (call.args[0] for call in log.call_args_list)
    assert first.startswith("'path' of the message hub is not saved")
    assert second.startswith("'meta' of the checkpoint is saved as it is")


class OnAGPU(torch.Tensor):
    """A stand-in: it must come to the CPU before NumPy can have it."""

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def numpy(self) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_a_run_goes_on_on_a_gpu() -> None:
    checkpoint: dict[str, Any] = dict(message_hub=dict(a=dict(x=buffer([1]))))
    make_plain(checkpoint)
    plain = checkpoint['message_hub']['a']['x']
    for part in ('log', 'count'):
        plain[part]['values'] = plain[part]['values'].as_subclass(OnAGPU)
    restore(checkpoint)
    assert checkpoint['message_hub']['a']['x'].current() == 1.0
