"""Two processes on the CPU against one."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import MMFullyShardedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from tiny import RECIPES, build_adversarial, raw_batch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from two_processes import on_two_processes

from m2at_mm.data_preprocessors import RandomCropAndFlip
from m2at_mm.methods import M2AT
from m2at_mm.methods.m2at import MixRatios
from m2at_mm.model_wrappers import AdversarialDistributedDataParallel
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.registry import MODEL_WRAPPERS


def _draw(rank: int) -> Any:
    """Crops of a training step, and masks after it."""
    bare = build_adversarial()
    kind = dict(type='m2at_mm.AdversarialDistributedDataParallel')
    # MMEngine's runner passes the local rank, on CPUs as well.
    model = MODEL_WRAPPERS.build(dict(kind, module=bare, device_ids=[rank]))
    torch.manual_seed(5)  # the common seed, as resuming sets it
    bare.data_preprocessor.augment = RandomCropAndFlip(4, 0.5)
    crops: list[torch.Tensor] = []
    bare.data_preprocessor.register_forward_hook(
        lambda _, args, batch: crops.append(batch['inputs'])
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.train_step(raw_batch(num=16), OptimWrapper(optimizer))
    return crops[0], M2AT().draw(torch.zeros(16, 3, 32, 32)).mask


def test_processes_draw_apart(tmp_path: Path) -> None:
    for one, other in zip(*on_two_processes(_draw, tmp_path)):
        same = [*map(torch.equal, one, other)]
        assert len(same) == 16 and sum(same) < 3


def _m2at_draws(rows: slice) -> MixRatios:
    """Draws for a batch of eight; partners stay within each half."""
    generator = torch.Generator().manual_seed(7)
    mask = (torch.rand(8, 1, 32, 32, generator=generator) < 0.5).float()
    ratio = torch.rand(8, generator=generator)
    partner = torch.tensor([1, 2, 3, 0, 5, 6, 7, 4])
    return MixRatios(mask[rows], ratio[rows], partner[rows] - rows.start)


def _m2at_gradients(rows: slice, wrap: bool) -> list[torch.Tensor]:
    """Of M2AT on a part of a batch of eight, in double precision."""
    init_default_scope('mmpretrain')
    attack = dict(type='m2at_mm.PGD', steps=2, random_start=False)
    model = build_adversarial(train_attack=attack).double()
    model.method.draw = lambda images: _m2at_draws(rows)
    # Images don't influence each other then, so halves make up a whole.
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    part = {key: value[rows] for key, value in raw_batch(num=8).items()}
    data = model.data_preprocessor(part, training=True)
    data['inputs'] = data['inputs'].double()
    outer = AdversarialDistributedDataParallel(model) if wrap else model
    outer(**data, mode='loss')['loss'].backward()
    return [p.grad for p in model.parameters()]


def _m2at_work(rank: int) -> Any:
    return _m2at_gradients(slice(4 * rank, 4 * rank + 4), wrap=True)


def test_m2at_on_two_processes_is_that_on_one(tmp_path: Path) -> None:
    whole = _m2at_gradients(slice(0, 8), wrap=False)
    for found in on_two_processes(_m2at_work, tmp_path):
        torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-9)


UNUSED = dict(find_unused_parameters=True)
# Arguments of the wrapper, attack steps, accumulated batches.
REDUCTIONS: list[tuple[dict, int, int]] = [({}, 1, 1), ({}, 6, 1)]
REDUCTIONS += [(UNUSED, 3, 1), (dict(static_graph=True), 3, 1)]
REDUCTIONS += [({}, 3, 3), (UNUSED, 3, 3)]


def _reduce(seen, bucket):  # type: ignore  # DDP checks any annotation
    seen.append(bucket.index())
    return default_hooks.allreduce_hook(None, bucket)


def _count_reductions(rank: int) -> Any:
    # Older PyTorch gives the first bucket a size of its own, 1 MiB.
    distributed._DEFAULT_FIRST_BUCKET_BYTES = 20_000
    counts = []
    for arguments, steps, batches in REDUCTIONS:
        attack = dict(type='m2at_mm.PGD', steps=steps)
        bare = build_adversarial(train_attack=attack).train()
        arguments = dict(arguments, bucket_cap_mb=0.02)
        model = AdversarialDistributedDataParallel(bare, **arguments)
        buckets: list[int] = []
        model.register_comm_hook(buckets, _reduce)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        wrapper = OptimWrapper(optimizer, accumulative_counts=batches)
        for seed in range(3 * batches):
            if seed == 2 * batches:  # buckets are built anew at first
                buckets.clear()
            model.train_step(raw_batch(seed=2 * seed + rank), wrapper)
        counts.append(buckets)
    return counts


def test_each_bucket_is_reduced_once_a_step(tmp_path: Path) -> None:
    for counts in on_two_processes(_count_reductions, tmp_path):
        for case, buckets in zip(REDUCTIONS, counts, strict=True):
            assert len(buckets) > 1, case
            assert sorted(buckets) == list(range(len(buckets))), case


def _train_sharded(rank: int) -> Any:
    losses = {}
    for name in ('DDP', 'FSDP', 'FSDP, own parameters'):
        bare = build_adversarial().train()
        if name == 'DDP':
            model: Any = AdversarialDistributedDataParallel(bare)
        else:
            own = dict(use_orig_params='own' in name)
            cpu = torch.device('cpu')
            model = MMFullyShardedDataParallel(bare, device_id=cpu, **own)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        # DDP adds the rank to the seed itself.
        torch.manual_seed(5 + (0 if name == 'DDP' else rank))
        batches = [raw_batch(seed=2 * step + rank) for step in range(4)]
        logs = [model.train_step(batch, wrapper) for batch in batches]
        losses[name] = [log['loss'] for log in logs]
    return losses


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, 'wait_stream'),
    reason='this PyTorch shards on GPUs only',
)
def test_sharded_training_is_the_same(tmp_path: Path) -> None:
    for losses in on_two_processes(_train_sharded, tmp_path):
        whole = torch.stack(losses.pop('DDP'))
        assert len(whole.unique()) == 4
        for found in losses.values():
            torch.testing.assert_close(torch.stack(found), whole)


def test_synchronised_norms_are_attacked_as_any_other() -> None:
    """Converted as the Runner does for ``sync_bn='torch'``."""
    init_default_scope('mmpretrain')
    losses = []
    for convert in (False, True):
        model = build_adversarial().train()
        if convert:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            norms = [m for m in model.modules() if 'Norm' in type(m).__name__]
            assert {type(norm) for norm in norms} == {nn.SyncBatchNorm}
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        torch.manual_seed(0)
        logs = [model.train_step(raw_batch(seed=k), wrapper) for k in range(3)]
        losses.append([float(log['loss']) for log in logs])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def _train_all(rank: int) -> Any:
    """The weights of every method, with and without weight perturbation."""
    found = {}
    wrappers = (OptimWrapper, AWPOptimWrapper)
    for name, wrapper_type in product(RECIPES, wrappers):
        if name == 'FreeAT' and wrapper_type is AWPOptimWrapper:
            continue
        bare = build_adversarial(**RECIPES[name], label_smoothing=0.1)
        model = AdversarialDistributedDataParallel(bare.train())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        wrapper = wrapper_type(optimizer, accumulative_counts=2)
        before = model.module.head.fc.weight.detach().clone()
        for seed in range(4):
            batch = raw_batch(num=4, seed=10 * seed + rank)
            log = model.train_step(batch, wrapper)
            assert torch.isfinite(log['loss']), name
        assert not torch.equal(model.module.head.fc.weight, before), name
        weights = [p.detach() for p in model.parameters()]
        found[f'{name} {wrapper_type.__name__}'] = weights
    return found


def test_every_method_accumulates_alike_on_both(tmp_path: Path) -> None:
    first, second = on_two_processes(_train_all, tmp_path)
    assert len(first) == 2 * len(RECIPES) - 1
    for name, weights in first.items():
        same = map(torch.equal, weights, second[name])
        assert all(same), name  # one model, not two
