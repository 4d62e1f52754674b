"""Evaluates models that are planted to look robust: for docs/alarms.md.

    python docs/results/planted.py data/cifar10 OUT.json \\
        --robust A.pth --undefended B.pth

The networks are narrow CIFAR ResNet-18 (width 16). Each model is evaluated as
tools/test.py does by default, and by an attack that knows what was planted: it
fools the network inside (PGD-100 on both losses, APGD-T). Models that are in
OUT.json already are left out, so the same command goes on where it was
stopped.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from m2at_mm.attacks import PGD, AutoAttack, ThreatModel
from m2at_mm.attacks.losses import margin
from m2at_mm.evaluation import ResultStore, RobustnessEvaluation
from m2at_mm.evaluation.attacked_model import margin_gradient
from m2at_mm.evaluation.results import make_results

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests'))
sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests' / 'data'))
from evaluation_support import samples_of
from planted_models import PLANTED
from train_robust_network import build_network, read_images

THREAT_MODEL = ThreatModel('linf', '8/255')
# Of configs/_base_/datasets/cifar10.py, for the undefended network; the robust
# one was trained on images in [0, 1] as they are.
MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)
ATTACKS = ('fgsm', 'pgd20', 'cw20')
ADAPTIVE = (
    PGD(steps=100),
    PGD(steps=100, loss='margin'),
    AutoAttack(['apgd-t']),
)
# What is drawn, and the alarm that tells of it.
PICTURES = {
    'nothing planted': 'no alarm',
    'ripple 0.05': 'misleading_gradients',
    'ripple 1, long': 'misleading_gradients',
    'grid, reversed': 'misleading_gradients',
    'grid, noise': 'misleading_gradients',
    'grid, decoy': 'misleading_gradients',
    'decoy': 'misleading_gradients',
    'cache 17/255': 'answers_depend_on_earlier_queries',
    'dead zone': 'vanishing_gradients',
    'flipped 30 %': 'misleading_gradients',
}
PICTURE_RANGE = (-0.15, 0.35)


class Normalised(nn.Module):
    """A network behind the normalisation of the CIFAR-10 configs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, values in (('mean', MEAN), ('std', STD)):
            whole = torch.tensor(values).view(3, 1, 1) / 255
            self.register_buffer(name, whole, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


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


def draw(network: nn.Module, image: Tensor, label: Tensor, path: Path) -> None:
    """Draw how the margin changes up the gradient, and what it says."""
    torch.manual_seed(0)
    start = THREAT_MODEL.ball(image).random_start()
    lengths = torch.linspace(0, 2 / 255, 81)
    figure, axes = plt.subplots(2, 5, figsize=(12, 4.6), sharex=True)
    for axis, (name, alarm) in zip(axes.flat, PICTURES.items()):
        model = PLANTED[name](network) if name in PLANTED else network
        with torch.no_grad():
            model(image)  # the query that a cache remembers
        before, gradient = margin_gradient(model, start, label)
        line = start + lengths.view(-1, 1, 1, 1) * gradient.sign()
        with torch.no_grad():
            logits = torch.cat([model(one) for one in line.split(1)])
        rise = margin(logits, label.expand(len(line))) - before
        axis.plot(255 * lengths, lengths * gradient.abs().sum(), '--')
        axis.plot(255 * lengths, rise)
        axis.set_ylim(*PICTURE_RANGE)
        axis.set_title(f'{name}\n{alarm}', fontsize=8)
    figure.supxlabel('length of the step up the gradient, in 1/255')
    figure.supylabel('rise of the margin')
    labels = ['what the gradient says', 'what happens']
    figure.legend(axes.flat[0].lines, labels, loc='upper right', ncols=2)
    figure.suptitle('One image at a random point of the ball', x=0.2)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data')
    parser.add_argument('out', type=Path)
    parser.add_argument('--robust', required=True)
    parser.add_argument('--undefended', required=True)
    parser.add_argument('--num-images', type=int, default=100)
    parser.add_argument('--only-report', action='store_true')
    parser.add_argument('--picture', type=Path, help='draw, and do no more')
    args = parser.parse_args()
    MMLogger.get_instance('mmengine', log_level='ERROR')
    pixels, labels = read_images(args.data, 'test', args.num_images)
    images = pixels.float() / 255
    if args.picture:
        network = load_network(args.robust)
        first = is_right(network, images, labels).nonzero()[0]
        draw(network, images[first], labels[first], args.picture)
        return
    rows = json.loads(args.out.read_text()) if args.out.exists() else {}
    for base in ('robust', 'undefended'):
        network = load_network(getattr(args, base))
        if base == 'undefended':
            network = Normalised(network)
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
