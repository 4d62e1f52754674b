"""Train the robust network of the tests: a narrow ResNet-18 for CIFAR-10.

    python tests/data/train_robust_network.py data/cifar10

Adversarial training with one step from a random start (arXiv 2001.03994), five
minutes on one core.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, ThreatModel, pgd
from m2at_mm.data_preprocessors import RandomCropAndFlip
from m2at_mm.datasets import CIFAR10

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tiny import build_network

FILE = Path(__file__).with_name('robust_resnet18_w8.pth')
THREAT_MODEL = ThreatModel('linf', '8/255')
# Smaller than the radius of the tests: a narrow network underfits at that.
TRAINED = ThreatModel('linf', '6/255')
ATTACK = FGSM(random_start=True, step=1.25)
BATCH_SIZE = 100
# Learning rate and momentum at these iterations, linear in between: the first
# three epochs of one cycle of eight, which reach what the tests need.
ITERATIONS = (0, 799, 1497)
LEARNING_RATES = (0.008, 0.2, 0.1564)
MOMENTA = (0.95, 0.85, 0.8718)


def read_images(root: str, split: str, num: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 of shape (N, 3, 32, 32), and labels."""
    data = CIFAR10(root, split=split, val_size=10, indices=num)
    pixels = np.stack([data.get_data_info(i)['img'] for i in range(len(data))])
    labels = torch.as_tensor(np.array(data.get_gt_labels()))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels


def train_epoch(net: nn.Module, optimizer: Any, data: tuple, done: int) -> int:
    """Train for an epoch or what is left; the iterations that are done."""
    augment = RandomCropAndFlip(crop_padding=4, flip_prob=0.5)
    net.train()
    for index in torch.randperm(len(data[0])).split(BATCH_SIZE)[:-1]:
        if done == ITERATIONS[-1]:
            break
        for key, values in (('lr', LEARNING_RATES), ('momentum', MOMENTA)):
            value = float(np.interp(done, ITERATIONS, values))
            optimizer.param_groups[0][key] = value
        images, labels = augment(data[0][index]).float() / 255, data[1][index]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            logits = net(ATTACK(net, images, labels, TRAINED))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
    return done


def accuracies(net: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Per cent: clean, and under PGD-20."""
    net.eval()
    right = torch.zeros(2)
    for x, y in zip(images.split(250), labels.split(250)):
        x = x.float() / 255
        attacked = pgd(net, x, y, THREAT_MODEL, steps=20)
        with torch.no_grad():
            for k, one in enumerate((x, attacked)):
                right[k] += (net(one).argmax(1) == y).sum()
    return (100 * right / len(images)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data_root', help='folder with all of CIFAR-10')
    args = parser.parse_args()
    MMLogger.get_instance('mmengine', log_level='WARNING')
    torch.manual_seed(0)
    data = read_images(args.data_root, 'train', 49990)
    test = read_images(args.data_root, 'test', 500)
    net = build_network(8).to(memory_format=torch.channels_last)
    net.init_weights()
    optimizer = torch.optim.SGD(
        net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    done = 0
    while done < ITERATIONS[-1]:
        done = train_epoch(net, optimizer, data, done)
        print(f'iteration {done}:', *accuracies(net, *test), flush=True)
    torch.save(dict(state_dict=net.half().state_dict()), FILE)


if __name__ == '__main__':
    main()
