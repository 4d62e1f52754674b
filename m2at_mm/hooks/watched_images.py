"""The images that hooks attack while training, the same every time."""

from typing import Any

from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.attacks import own_random_stream
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers import bare_model


def watched_loader(runner: Runner) -> Any:
    """The loader of the validation images, else of the training images."""
    return (runner.val_loop or runner.train_loop).dataloader


def watched_batches(
    runner: Runner, count: int, least: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """Read up to ``count`` images and labels, spread over the classes.

    They are on the CPU, in batches of the loader's size, at least ``least``.
    """
    loader, model = watched_loader(runner), bare_model(runner.model)
    # PyTorch's loader draws a seed, too.
    with own_random_stream(next(model.parameters()).device, 0):
        prepare = model.data_preprocessor
        samples = Samples(loader.dataset, prepare, loader.collate_fn)
        order = samples.spread(count)
        size = max(loader.batch_size or 1, least)
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        return [(x.cpu(), y.cpu()) for x, y in samples.batches(parts)]
