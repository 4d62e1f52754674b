"""Tries the attacks of torchattacks and foolbox: for docs/evaluation.md.

    python docs/results/foreign.py OUT.json

Each attack with its package's settings, under linf 8/255 or l2 0.5, on the
first images of the tests' robust network; ours beside them.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests'))
from tiny import load_network, read_images

from m2at_mm.attacks import PGD, Foolbox, ThreatModel, TorchAttacks

DATA = Path(__file__).resolve().parents[2] / 'tests' / 'data'
THREATS = {'linf': ThreatModel(), 'l2': ThreatModel('l2', 0.5)}
# By default 90,000 steps.
SETTINGS = {'L2CarliniWagnerAttack': dict(binary_search_steps=5, steps=100)}


def main() -> None:
    """Attack and write after each attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('--num-images', type=int, default=200)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    path = DATA / 'robust_resnet18_w8.pth'
    network = load_network(torch.load(path, weights_only=True)['state_dict'])
    images, labels = read_images(DATA / 'cifar10' / 'test', args.num_images)
    clean = network(images).argmax(1) == labels
    found = {'clean': 100 * clean.float().mean().item(), 'attacks': {}}
    for norm, threat in THREATS.items():
        attacks = {'PGD, 10 steps': PGD(10), 'PGD, 40 steps': PGD(40)}
        for kind in (TorchAttacks, Foolbox):
            for name in kind.names[norm]:
                attack = kind(name, **SETTINGS.get(name, {}))
                attacks[f'{kind.package}.{name}'] = attack
        for name, attack in attacks.items():
            torch.manual_seed(0)
            since = time.perf_counter()
            moved = attack(network, images[clean], labels[clean], threat)
            seconds = time.perf_counter() - since
            right = network(moved).argmax(1) == labels[clean]
            accuracy = 100 * right.sum().item() / len(images)
            one = dict(accuracy=accuracy, seconds=seconds)
            found['attacks'].setdefault(norm, {})[name] = one
            print(norm, name, one, flush=True)
            args.out.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
