"""An interrupted and resumed run against one that ran through."""

import copy
import functools
from pathlib import Path
from typing import Any

import digits_runner as runs
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.hooks import CollapseGuardHook, RNGStateHook

SEEDED = dict(randomness=dict(seed=0))


def build_in(folder: Path, loop: str, whole: bool, workers: int) -> Runner:
    loader = dict(num_workers=workers, persistent_workers=bool(workers))
    settings = dict(whole_batches=whole, train_dataloader=loader)
    return runs.build_runner(folder, loop, **settings)


@functools.cache
def unbroken(folder: Path, loop: str, whole: bool, workers: int) -> Runner:
    """A run of each kind; workers that join whole batches draw nothing."""
    runs.seeded(0)
    name = f'{loop}-{whole}-{workers}'
    runner = build_in(folder / name, loop, whole, workers)
    runner.train()
    return runner


# A killed run's loop, iteration (in a validation: v), workers, and whether
# batches are joined by the dataset (w).
FAST = (
    'epochs 5 0,epochs 6v 2 w,middle 5 2,middle 7 0 w,middle 5 2 w,'
    'iterations 5 2,iterations 6v 0 w'
).split(',')
SLOW = (
    'epochs 6 2,epochs 6v 0,epochs 6v 2,epochs 5 0 w,middle 5 0,middle 6v 0,'
    'middle 6v 2,middle 6v 2 w,middle 7 2,middle 7 0,iterations 5 0,'
    'iterations 5 2 w,iterations 6v 2,iterations 6v 0'
).split(',')


CASES = [*FAST, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]


@pytest.mark.parametrize('case', CASES)
def test_resumed_run(case: str, tmp_path: Path, tmp_path_factory: Any) -> None:
    loop, at, number, *mark = case.split()
    workers, whole = int(number), bool(mark)
    drawing = 0 if whole else workers
    base = tmp_path_factory.getbasetemp() / 'uninterrupted'
    first = unbroken(base, loop, whole, drawing)
    build = functools.partial(build_in, tmp_path, loop, whole, workers)
    kill = runs.KillAt(int(at[0]), in_validation=at.endswith('v'))
    resumed = runs.killed_and_resumed(build, kill)
    # The seed that the first run drew, which nobody wrote down.
    assert resumed.seed == first.seed
    parts = (*runs.PARTS, 'param_schedulers')
    runs.same_ends(Path(first.work_dir), tmp_path, *parts)
    for name in ('train/loss', 'val/robust/clean', 'val/robust/pgd10'):
        runs.same(runs.scalars(resumed, name), runs.scalars(first, name), name)


NEVER_BETTER = dict(monitor='robust/pgd10', rule='greater')
STOPS = dict(type='EarlyStoppingHook', patience=2, min_delta=100.0)
EARLY = NEVER_BETTER | STOPS
PLATEAU = dict(NEVER_BETTER, type='ReduceOnPlateauLR', _delete_=True)
PLATEAU |= dict(threshold_rule='abs', threshold=100.0, patience=0)
CYCLE = dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False)
CYCLE |= dict(anneal_strategy='cos', _delete_=True)
LINEAR = CYCLE | dict(anneal_strategy='linear')
AVERAGE = dict(type='EMAHook', ema_type='StochasticWeightAverage', interval=2)
CROP = dict(type='RandomCrop', crop_size=32, padding=2)
SWITCHED = dict(action_epoch=2, train_pipeline=[CROP, dict(type='PackInputs')])
SWITCH = dict(type='mmpretrain.SwitchRecipeHook', schedule=[SWITCHED])
GUARD = dict(type='m2at_mm.CollapseGuardHook', num_images=8, steps=1)
GUARD |= dict(action='rollback')
BY_ITERATION = dict(by_epoch=False, interval=2)
LONG_EPOCHS = dict(train_cfg=dict(max_epochs=5))


def hooks(*custom: dict) -> dict:
    return dict(custom_hooks=list(custom))


def accumulated(batches: int) -> dict:
    return dict(optim_wrapper=dict(accumulative_counts=batches))


KEEPING_A_STATE: dict[str, tuple[str, int, dict]] = {
    'early stopping': ('epochs', 7, hooks(EARLY) | LONG_EPOCHS),
    'early by iteration': ('iterations', 7, hooks(EARLY)),
    'plateau': ('epochs', 7, dict(param_scheduler=PLATEAU)),
    'average': ('epochs', 5, dict(default_hooks=dict(ema=AVERAGE))),
    'switched pipeline': ('middle', 7, hooks(SWITCH)),
    'accumulated': ('epochs', 5, accumulated(2)),
    'accumulated over epochs': ('middle', 5, accumulated(4)),
    'cosine cycle': ('epochs', 5, dict(param_scheduler=CYCLE)),
    'linear cycle': ('epochs', 5, dict(param_scheduler=LINEAR)),
    'guard': ('epochs', 5, hooks(GUARD)),
    'guard by iteration': ('iterations', 5, hooks(GUARD | BY_ITERATION)),
}


@pytest.mark.parametrize('kind', KEEPING_A_STATE)
def test_resumed_states(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    loop, killed_at, settings = KEEPING_A_STATE[kind]

    def judge(guard: Any, _: Any, runner: Runner) -> str | None:
        return 'pretended' if runner.iter + (not guard.by_epoch) == 6 else None

    monkeypatch.setattr(CollapseGuardHook, '_judge', judge)

    def build(name: str) -> Runner:
        own = copy.deepcopy(settings)  # merging takes '_delete_' out
        return runs.build_runner(tmp_path / name, loop, **SEEDED, **own)

    # Early stopping ends longer ones there.
    whole = runs.resumes(build, runs.KillAt(killed_at))
    if 'cycle' in kind:
        assert len(set(runs.scalars(whole, 'train/lr'))) == 9


def test_the_best_checkpoint_knows_that_it_is_the_best(tmp_path: Path) -> None:
    runner = runs.build_runner(tmp_path, 'epochs', **hooks(EARLY), **SEEDED)
    runner.train()
    (path,) = tmp_path.glob('best_*_?.pth')
    best = torch.load(path, weights_only=True)
    epoch = best['meta']['epoch']
    state = best['hook_states']['EarlyStoppingHook']
    assert epoch == 1 or state['wait_count'] == epoch - 1
    # Of the first validation, as no other is better by 100 points.
    assert state['best_score'] == runs.scalars(runner, 'val/robust/pgd10')[0]


class Forgets(Hook):
    """A hook of another package that doesn't tell its state."""

    def __init__(self) -> None:
        self.seen = 0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self.seen += 1


class Counts(Forgets):
    """One that does."""

    def state_dict(self) -> dict[str, int]:
        return dict(seen=self.seen)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state['seen']


def test_hooks_of_others(tmp_path: Path) -> None:
    for epochs in (1, 2):
        until = dict(train_cfg=dict(max_epochs=epochs))
        runner = runs.build_runner(tmp_path, 'epochs', **until, **SEEDED)
        counts = [Counts(), Counts()]
        for hook in (*counts, Forgets()):
            runner.register_hook(hook)
        counts[1].seen = 10 * epochs
        runner._resume = epochs == 2
        runner.train()
    assert [hook.seen for hook in counts] == [6, 16]
    said = 'begins anew with what Forgets may have noted'
    assert said in runs.log_of(tmp_path)


def test_without_the_hook_it_is_another_run(tmp_path: Path) -> None:
    """The comparison above can fail, and the next run is told why."""

    def build(name: str = 'parts') -> Runner:
        folder = tmp_path / name
        return runs.build_runner(folder, 'epochs', hooked=False, **SEEDED)

    runs.seeded(0)
    build('whole').train()
    runs.killed_and_resumed(build, runs.KillAt(6))
    with pytest.raises(AssertionError, match='state_dict'):
        runs.same_ends(tmp_path / 'whole', tmp_path / 'parts', 'state_dict')
    longer = runs.build_runner(tmp_path / 'parts', 'epochs', **LONG_EPOCHS)
    assert runs.resume(longer).epoch == 5
    assert 'holds no random streams' in runs.log_of(tmp_path / 'parts')


def test_validation_leaves_training_alone(tmp_path: Path) -> None:
    ends = []
    for interval in (1, 3):
        cfg = dict(val_interval=interval)
        runs.seeded(0)
        folder = tmp_path / str(interval)
        runs.build_runner(folder, 'epochs', train_cfg=cfg, **SEEDED).train()
        ends.append(runs.end_of(folder)['state_dict'])
    runs.same(*ends)


def test_another_number_of_processes_is_said(tmp_path: Path) -> None:
    hook = RNGStateHook()
    runner = runs.build_runner(tmp_path, 'epochs')
    runner._resume = True
    state = dict(ranks=[{}, {}], at_epoch_end=True)
    hook.after_load_checkpoint(runner, dict(rng_state=state))
    assert hook._loaded is None
    assert 'is from 2 processes, this run has 1' in runs.log_of(tmp_path)
