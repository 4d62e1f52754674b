"""Compares MALT with AutoAttack on 100 classes: for docs/evaluation.md.

    python docs/results/malt.py OUT.json

The classes are pairs of handwritten digits side by side; the network is small
and trained adversarially within a minute. The attacks take turns on one
thread.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import AutoAttack, ThreatModel, pgd
from m2at_mm.datasets import Digits

THREAT_MODEL = ThreatModel('linf', '16/255')
ATTACKS = {
    'autoattack': AutoAttack(),
    'apgd-t': AutoAttack(['apgd-t']),
    'malt': AutoAttack(['malt']),
}


def read_pairs(split: str, num: int) -> tuple[Tensor, Tensor]:
    """Images of two digits, (num, 3, 32, 32), and labels below 100."""
    data = Digits(split=split)
    items = [data.get_data_info(index) for index in range(len(data))]
    images = torch.stack([torch.from_numpy(one['img']) for one in items])
    images = images.permute(0, 3, 1, 2).float()[..., ::2] / 255
    labels = torch.tensor([one['gt_label'] for one in items])
    left, right = torch.randint(len(items), (2, num))
    pairs = torch.cat([images[left], images[right]], 3)
    return pairs, 10 * labels[left] + labels[right]


def train(images: Tensor, labels: Tensor, epochs: int = 8) -> nn.Module:
    """A network of three convolutions after adversarial training."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 16, 100),
    )
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(100):
            x, y = images[part], labels[part]
            attacked = pgd(network, x, y, THREAT_MODEL, steps=3)
            loss = F.cross_entropy(network(attacked), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('--num-images', type=int, default=300)
    parser.add_argument('--rounds', type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = train(*read_pairs('train', 12000))
    images, labels = read_pairs('test', args.num_images)
    found = dict(clean=network(images).argmax(1) == labels)
    seconds: dict[str, list[float]] = {name: [] for name in ATTACKS}
    for _ in range(args.rounds):
        for name, attack in ATTACKS.items():
            start = time.perf_counter()
            moved = attack(network, images, labels, THREAT_MODEL)
            seconds[name].append(time.perf_counter() - start)
            found[name] = network(moved).argmax(1) == labels
    differ = (found['malt'] != found['autoattack']).sum()
    results = dict(
        num_images=args.num_images,
        left={name: int(right.sum()) for name, right in found.items()},
        malt_differs_from_autoattack=int(differ),
        seconds=seconds,
    )
    args.out.write_text(json.dumps(results, indent=2) + '\n')
    print(results)


if __name__ == '__main__':
    main()
