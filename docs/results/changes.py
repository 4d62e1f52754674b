"""Times parts of an iteration, each with and without a change.

    python docs/results/changes.py OUT.json

ResNet-18 at a quarter of its width, new weights of seed 0, the first training
images of CIFAR-10; the ways take turns. For docs/performance.md.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from torch import Tensor

from m2at_mm.attacks import attack_mode
from m2at_mm.attacks.logits import logits_of
from m2at_mm.cli import model_config
from m2at_mm.datasets import CIFAR10
from m2at_mm.recipes import config_root
from m2at_mm.registry import MODELS

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tools'))
from benchmarking.summary import summarise
from benchmarking.timing import now

ROUNDS, BLOCK, STEP_BATCH, DATA_BATCH = 12, 4, 64, 128
PACK = dict(type='PackInputs')
AUGMENTED = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    PACK,
]


def build_model() -> Any:
    """The narrow network of the PGD-AT config."""
    cfg = Config.fromfile(str(config_root() / 'pgd-at_resnet18_cifar10.py'))
    backbone = 'model.classifier.backbone.'
    cfg.merge_from_dict(
        {
            f'{backbone}base_channels': 16,
            f'{backbone}stem_channels': 16,
            'model.classifier.head.in_channels': 128,
        }
    )
    torch.manual_seed(0)
    model = MODELS.build(model_config(cfg))
    model.init_weights()
    return model.train()


def dataset(**settings: Any) -> CIFAR10:
    """The first training images."""
    return CIFAR10('data/cifar10', indices=2000, **settings)


def attacked_batch(model: Any, size: int) -> tuple[Tensor, Tensor]:
    """Images and labels as an attack gets them."""
    whole = dataset(pipeline=[PACK], whole_batches=True)
    batch = model.data_preprocessor(whole.__getitems__([*range(size)]))
    return batch['inputs'], batch['data_samples'].labels


def steps(model: Any) -> dict[str, Callable[[], Any]]:
    """An attack step in each way, each prepared anew for a block."""
    images, labels = attacked_batch(model, STEP_BATCH)
    more = attacked_batch(model, 2 * STEP_BATCH)

    @contextmanager
    def way(
        call: Callable[[Tensor], Tensor],
        inputs: Tensor,
        folded: bool,
        labels: Tensor = labels,
    ) -> Iterator[Callable[[], None]]:
        def step() -> None:
            start = inputs.detach().requires_grad_(True)
            loss = F.cross_entropy(call(start), labels, reduction='sum')
            torch.autograd.grad(loss, start)

        with attack_mode(model, 'eval', inputs if folded else None):
            yield step

    return {
        'folded': partial(way, model, images, True),
        'eager': partial(way, model, images, False),
        'folded, contiguous batch': partial(
            way, model, images.contiguous(), True
        ),
        'compiled': partial(
            way,
            partial(logits_of, model, compile_mode='default'),
            images,
            False,
        ),
        'folded, twice the images': partial(
            way, model, more[0], True, more[1]
        ),
    }


def loads(model: Any) -> dict[str, Callable[[], Any]]:
    """A training batch on the device in each way."""
    whole = dataset(pipeline=[PACK], whole_batches=True, serialize_data=False)
    samples = dataset(pipeline=AUGMENTED)
    indices = [*range(DATA_BATCH)]
    augment = model.data_preprocessor.augment

    @contextmanager
    def way(by_samples: bool) -> Iterator[Callable[[], None]]:
        def load() -> None:
            if by_samples:
                batch = default_collate([samples[i] for i in indices])
            else:
                batch = whole.__getitems__(indices)
            model.data_preprocessor(batch, training=True)

        model.data_preprocessor.augment = None if by_samples else augment
        yield load
        model.data_preprocessor.augment = augment

    return {
        'whole batches': partial(way, False),
        'samples': partial(way, True),
    }


def measure(ways: dict[str, Callable[[], Any]], size: int) -> dict[str, Any]:
    """Medians and ratios of ways that take turns."""
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            with way() as run:
                run()
                block = []
                for _ in range(BLOCK):
                    since = now()
                    run()
                    block.append(now() - since)
            if number:  # the first round compiles
                times[name].append(block)
    return summarise(times, size)


def main() -> None:
    """Measure all, and write the figures."""
    init_default_scope('mmpretrain')
    model = build_model()
    results = dict(
        attack_step=measure(steps(model), STEP_BATCH),
        training_batch=measure(loads(model), DATA_BATCH),
        allocator={k: v for k, v in os.environ.items() if 'MALLOC_' in k},
        device=platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
    Path(sys.argv[1]).write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
