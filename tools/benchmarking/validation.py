"""Times robust validation beside a loop that is written by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from benchmarking.rivals import OURS, PlainLoop
from benchmarking.timing import now

Batch = tuple[Tensor, Tensor]


def time_validation(
    model: Any, batches: Sequence[Batch], rounds: int
) -> dict[str, Any]:
    """Clean and robust accuracy of the same images, computed in two ways.

    ``'m2at_mm'`` is what validation calls, ``predict`` with an eval attack;
    ``'plain'`` attacks all images with all steps, in eval mode. They take
    turns, in each round.

    The model has one eval attack, a ``PGD``. Images are in [0, 1], of shape
    (N, C, H, W), labels int64 of shape (N, ). The rounds come after one to
    warm up. ``times`` are the seconds by name and round in the shape that
    :func:`summarise` takes, and ``accuracy`` has by name the clean and the
    robust one, in per cent.

    Raises:
        ValueError: The model has not one eval attack.
    """
    if len(model.eval_attacks) != 1:
        raise ValueError(
            f'eval_attacks={sorted(model.eval_attacks)} must be one attack, '
            'to be compared with one loop'
        )
    model.eval()
    ((name, attack),) = model.eval_attacks.items()
    loop = PlainLoop(model, *batches[0], attack)
    loop.network.eval()

    def predict(images: Tensor, labels: Tensor) -> Tensor:
        samples = [DataSample().set_gt_label(n) for n in labels.tolist()]
        with torch.no_grad():
            found = model(images, samples, mode='predict')
        clean = [one.pred_label.item() for one in found]
        attacked = [one.adversarial_pred_labels[name] for one in found]
        return torch.tensor([clean, attacked])

    def by_hand(images: Tensor, labels: Tensor) -> Tensor:
        loop.load(images, labels)
        both = (loop.images, loop.attack())
        with torch.no_grad():
            return torch.stack([loop.network(one).argmax(1) for one in both])

    times: dict[str, list[list[float]]] = {OURS: [], 'plain': []}
    accuracy = {}
    for number in range(rounds + 1):
        for way, classify in {OURS: predict, 'plain': by_hand}.items():
            since = now()
            each = [classify(*one).cpu() == one[1].cpu() for one in batches]
            right = torch.cat(each, 1)
            if number:
                times[way].append([now() - since])
            accuracy[way] = (100 * right.float().mean(1)).tolist()
    return dict(times=times, accuracy=accuracy)
