"""Evaluates models that are planted to look robust: for docs/alarms.md.

    python docs/results/planted.py data/cifar10 OUT.json \\
        --robust A.pth --undefended B.pth

The networks are narrow CIFAR ResNet-18 (width 16). Each model is evaluated as
tools/test.py does by default, and by an attack that knows what was planted: it
fools the network inside (PGD-100 on both losses, APGD-T). Models that are in
OUT.json already are left out, so the same command goes on where it was
stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from m2at_mm.attacks import PGD, AutoAttack, ThreatModel
from m2at_mm.evaluation import ResultStore, RobustnessEvaluation
from m2at_mm.evaluation.results import make_results

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests'))
sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests' / 'data'))
from evaluation_support import samples_of
from planted_models import PLANTED
from train_robust_network import build_network, read_images

THREAT_MODEL = ThreatModel('linf', '8/255')
ATTACKS = ('fgsm', 'pgd20', 'cw20')
ADAPTIVE = (
    PGD(steps=100),
    PGD(steps=100, loss='margin'),
    AutoAttack(['apgd-t']),
)


def load_network(path: str) -> nn.Module:
    """A network of width 16, from images in [0, 1] to logits."""
    state = torch.load(path, map_location='cpu', weights_only=False)
    state = {
        key: value
        for key, value in state.get('state_dict', state).items()
        if key.startswith(('backbone.', 'head.'))
    }
    network = build_network(16)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def is_right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).argmax(1) == labels


def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> Any:
    """results.json of an evaluation with the default attacks."""
    with TemporaryDirectory() as folder:
        outcomes, probes = RobustnessEvaluation(
            model, samples_of(images, labels), ResultStore(Path(folder), {})
        ).run(ATTACKS, [THREAT_MODEL])
    return make_results(outcomes, probes)


def adaptive(
    plant: Callable[[nn.Module], nn.Module],
    network: nn.Module,
    fooling: list[Tensor],
    images: Tensor,
    labels: Tensor,
) -> float:
    """Accuracy in per cent under the attack that knows what was planted."""
    left = is_right(plant(network), images, labels)
    for tried in fooling:  # a model that was never asked, for each
        left &= is_right(plant(network), tried, labels)
    return 100 * left.double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data')
    parser.add_argument('out', type=Path)
    parser.add_argument('--robust', required=True)
    parser.add_argument('--undefended', required=True)
    parser.add_argument('--num-images', type=int, default=100)
    parser.add_argument('--only-report', action='store_true')
    args = parser.parse_args()
    MMLogger.get_instance('mmengine', log_level='ERROR')
    pixels, labels = read_images(args.data, 'test', args.num_images)
    images = pixels.float() / 255
    rows = json.loads(args.out.read_text()) if args.out.exists() else {}
    for base in ('robust', 'undefended'):
        network = load_network(getattr(args, base))
        fooling = []
        if not args.only_report:
            fooling = [
                a(network, images, labels, THREAT_MODEL) for a in ADAPTIVE
            ]
        for name, plant in {'nothing': lambda n: n, **PLANTED}.items():
            if f'{base}, {name}' in rows:
                continue
            results = evaluate(plant(network), images, labels)
            row = dict(
                clean=results['clean'],
                reported=results['worst_case'],
                attacks=results['attacks'],
                alarms=sorted({one['name'] for one in results['alarms']}),
            )
            if not args.only_report:
                row['adaptive'] = adaptive(
                    plant, network, fooling, images, labels
                )
            rows[f'{base}, {name}'] = row
            args.out.write_text(json.dumps(rows, indent=2) + '\n')
            print(base, name, row, flush=True)


if __name__ == '__main__':
    main()
