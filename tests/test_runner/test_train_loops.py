import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from digits_runner import build_digits_runner, build_runner
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from m2at_mm.registry import LOOPS
from m2at_mm.runner import train_loops

RESUMABLE = 'm2at_mm.ResumableEpochTrainLoop'
REPEATED = 'm2at_mm.RepeatedBatchTrainLoop'


def recorder() -> Any:
    """What a loop needs of a runner; notes the batches it trains on."""
    runner = Mock(val_loop=None, batches=[], hooks=[])
    runner.model.data_preprocessor = None
    runner.model.train_step = lambda batch, optim_wrapper: (
        runner.batches.append(batch.item())
    )
    runner.call_hook = lambda name, **_: runner.hooks.append(name)
    return runner


RESUMED = [
    (1, 0, 0, [0, 1, 2, 0, 1, 2]),
    (1, 0, 1, [1, 2, 0, 1, 2]),
    (1, 0, 3, [0, 1, 2]),  # saved after the last batch of its epoch
    (1, 1, 3, [0, 1, 2]),  # saved at the end of the epoch
    (1, 1, 5, [2]),
    (1, 2, 6, []),
    (2, 0, 0, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]),
    (2, 0, 3, [1, 2, 2, 0, 0, 1, 1, 2, 2]),
    (2, 1, 11, [2]),
]


@pytest.mark.parametrize(('repeats', 'epoch', 'iteration', 'batches'), RESUMED)
def test_goes_on_with_the_next_batch(
    repeats: int, epoch: int, iteration: int, batches: list[int]
) -> None:
    """Two epochs of the batches 0, 1, 2, from a checkpoint on."""
    runner = recorder()
    kind = dict(type=RESUMABLE, max_epochs=2, dataloader=DataLoader([0, 1, 2]))
    if repeats > 1:
        kind |= dict(type=REPEATED, repeats=repeats)
    loop = LOOPS.build(dict(kind, runner=runner))
    assert loop.max_iters == 2 * 3 * repeats
    loop._epoch, loop._iter = epoch, iteration
    loop.run()
    assert runner.batches == batches
    assert runner.hooks.count('after_train_epoch') == 2 - epoch
    assert runner.hooks.count('before_train_iter') == len(batches)


def test_repetitions_are_not_cropped_anew(tmp_path: Path) -> None:
    loop = dict(type=REPEATED, repeats=3, max_epochs=1, _delete_=True)
    runner = build_digits_runner(tmp_path, 10, train_cfg=loop)
    with pytest.raises(ValueError, match=r'augment would crop .* to None'):
        runner.train()


CONFIGS = [
    (dict(by_epoch=True, max_epochs=3, val_interval=2), RESUMABLE),
    (dict(by_epoch=False, max_iters=9), None),
    (dict(type='EpochBasedTrainLoop', max_epochs=3), None),
]


@pytest.mark.parametrize(('given', 'kind'), CONFIGS)
def test_epochs_become_resumable(given: dict, kind: str | None) -> None:
    cfg = Config(dict(train_cfg=given))
    train_loops.make_epochs_resumable(cfg)
    expected = dict(given)
    if kind:
        expected['type'] = kind
        del expected['by_epoch']
    assert cfg.train_cfg.to_dict() == expected


class Watch(Hook):
    """Notes what is announced and what happens, by iterations done."""

    def __init__(self) -> None:
        self.saves: list[int] = []
        self.announced: list[int] = []
        self.validated: list[int] = []

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        done = runner.iter + 1
        if train_loops.checkpoint_follows(runner):
            self.saves.append(done)
        length = 3 if train_loops.counts_epochs(runner) else 1
        due = train_loops.validation_follows(runner, done // length)
        if due and done % length == 0:
            self.announced.append(done)

    def before_val_epoch(self, runner: Runner) -> None:
        self.validated.append(runner.iter)


VALIDATIONS = [
    ('iterations', dict(val_interval=4, val_begin=3)),
    ('iterations', dict(val_interval=2, dynamic_intervals=[(5, 1)])),
    ('epochs', dict(val_interval=2)),
    ('middle', dict(val_interval=2)),
]


@pytest.mark.parametrize(('loop', 'settings'), VALIDATIONS)
def test_what_is_announced(loop: str, settings: dict, tmp_path: Path) -> None:
    watch = Watch()
    checkpoint = dict(by_epoch=False, interval=4, save_best=None)
    hooks = dict(checkpoint=checkpoint)
    settings = dict(train_cfg=settings, randomness=dict(seed=0))
    runner = build_runner(tmp_path, loop, default_hooks=hooks, **settings)
    runner.register_hook(watch)
    runner.train()
    assert watch.announced == watch.validated != []
    assert watch.saves == [4, 8, 9]
    saved = {path.name for path in tmp_path.glob('iter_?.pth')}
    assert saved == {'iter_4.pth', 'iter_8.pth', 'iter_9.pth'}


@TRANSFORMS.register_module(force=True)
class Die(BaseTransform):
    """Kills the process that reads a certain image, as a system would."""

    def transform(self, results: dict) -> Any:
        if results['sample_idx'] == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


def test_a_killed_worker_ends_training(tmp_path: Path) -> None:
    pipeline = [dict(type='mmengine.Die'), dict(type='PackInputs')]
    dataset = dict(pipeline=pipeline, whole_batches=False)
    loader = dict(num_workers=1, batch_size=4, dataset=dataset)
    runner = build_digits_runner(tmp_path, 20, train_dataloader=loader)
    # PyTorch tells of it by a signal, which may come at any later time.
    child = os.fork()
    if child == 0:
        code = 1
        try:
            runner.train()
        # Which of the two depends on who notices first.
        except (RuntimeError, ConnectionResetError):
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
