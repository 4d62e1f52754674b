"""Small real parts that many tests build on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from m2at_mm.compat import release
from m2at_mm.registry import MODELS
from m2at_mm.structures import BatchLabels

RADII = dict(linf='8/255', l2='128/255')
NORMS = {norm: dict(norm=norm, eps=eps) for norm, eps in RADII.items()}
#: Every method and the options of M2AT that work differently.
METHODS: dict[str, dict[str, Any]] = {
    'standard': dict(type='m2at_mm.Standard'),
    'pgd-at': dict(type='m2at_mm.PGDAT'),
    'm2at': dict(type='m2at_mm.M2AT'),
    'm2at, soft labels': dict(
        type='m2at_mm.M2AT', scale=2.0, perturbed_label=0.7, mask='pixel'
    ),
    'm2at, pairs': dict(type='m2at_mm.M2AT', pairing='batch', mask='patch'),
    'm2at, consistency': dict(type='m2at_mm.M2AT', consistency=6.0),
    'trades': dict(type='m2at_mm.TRADES'),
    'mart': dict(type='m2at_mm.MART'),
    'avmixup': dict(type='m2at_mm.AVmixup'),
    'iat': dict(type='m2at_mm.IAT'),
    'free-at': dict(type='m2at_mm.FreeAT'),
}
PGD = dict(type='m2at_mm.PGD', steps=2)
#: Train attacks; the first one is for any method but TRADES.
ATTACKS: dict[str, dict[str, Any]] = {
    'pgd': PGD,
    'folded pgd': dict(PGD, steps=8),
    'margin pgd': dict(PGD, loss='margin', random_start=False),
    'kl pgd': dict(PGD, loss='kl', noise_std=0.001),
    'two restarts': dict(PGD, restarts=2),
    'batch statistics': dict(PGD, bn_mode='batch'),
    'fgsm-rs': dict(type='m2at_mm.FGSM', random_start=True, step=1.25),
    'n-fgsm': dict(type='m2at_mm.NFGSM'),
}

#: Settings of every method by its class's name, with its recipe's attack.
_OTHERS = dict(TRADES='kl pgd', IAT='n-fgsm', Standard=None, FreeAT=None)
RECIPES: dict[str, dict[str, Any]] = {
    name: dict(
        method=dict(type=f'm2at_mm.{name}'),
        train_attack=ATTACKS.get(_OTHERS.get(name, 'pgd')),
    )
    for name in 'Standard PGDAT M2AT TRADES MART AVmixup IAT FreeAT'.split()
}

# mmpretrain's CIFAR-10 statistics, on the 0-255 scale.
MEAN = [125.307, 122.961, 113.8575]
STD = [51.5865, 50.847, 51.255]


def classifier_cfg(num_classes: int = 10, **backbone: Any) -> dict:
    """ResNet-18 for CIFAR, sixteen times narrower than the standard one."""
    backbone = dict(base_channels=4, stem_channels=4) | backbone
    width = 8 * backbone['base_channels']
    head = dict(type='LinearClsHead', num_classes=num_classes)
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(head, in_channels=width),
    )


def adversarial_cfg(**settings: Any) -> dict:
    """An adversarial classifier around :func:`classifier_cfg`."""
    defaults: dict = dict(
        type='m2at_mm.AdversarialClassifier',
        classifier=classifier_cfg(),
        threat_model=dict(norm='linf', eps='8/255'),
        train_attack=dict(type='m2at_mm.PGD', steps=2),
        method=dict(type='m2at_mm.M2AT'),
        eval_attacks={},
        data_preprocessor=dict(mean=MEAN, std=STD, num_classes=10),
    )
    return defaults | settings


def build_adversarial(seed: int = 0, **settings: Any) -> Any:
    """Build :func:`adversarial_cfg` with weights from ``seed``."""
    torch.manual_seed(seed)
    model = MODELS.build(adversarial_cfg(**settings))
    model.init_weights()
    return model


def build_stock(cfg: dict | None = None, **settings: Any) -> Any:
    """The same classifier as mmpretrain builds it, with its preprocessor."""
    cfg = cfg or classifier_cfg()
    cfg['data_preprocessor'] = dict(mean=MEAN, std=STD) | settings
    return MMPRETRAIN_MODELS.build(cfg)


def build_network(width: int) -> Any:
    """A CIFAR ResNet-18 from images in [0, 1] to logits."""
    widths = dict(base_channels=width, stem_channels=width)
    cfg = classifier_cfg(**widths, zero_init_residual=False)
    return MMPRETRAIN_MODELS.build(cfg)


def load_network(state_dict: dict[str, Tensor]) -> Any:
    """That with these weights, in eval mode, its parameters frozen."""
    network = build_network(width=len(state_dict['backbone.conv1.weight']))
    network.load_state_dict(state_dict)
    return network.eval().requires_grad_(False)


def read_images(folder: Path, num: int) -> tuple[Tensor, Tensor]:
    """Images of `<class>/*`, one of each class in turn, and their labels.

    In [0, 1], of shape (num, 3, H, W).
    """
    folders = sorted(folder.iterdir())
    turns = zip(*(sorted(one.iterdir()) for one in folders))
    files = [file for turn in turns for file in turn][:num]
    images = np.stack([np.array(Image.open(file)) for file in files])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    labels = torch.arange(num) % len(folders)
    return pixels.contiguous().float() / 255, labels


def raw_batch(num: int = 4, num_classes: int = 10, seed: int = 0) -> dict:
    """What a dataloader gives: uint8 pixels and labelled samples."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8
    )
    labels = torch.randint(num_classes, (num,), generator=generator)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    return dict(inputs=pixels, data_samples=samples)


needs_torch_that_compiles = pytest.mark.skipif(
    release(torch.__version__) < [2, 4],
    reason='PyTorch 2.1 compiles again at each step, and fails on SGD',
)


def skip_unless_computed(dtype: torch.dtype) -> None:
    """PyTorch 2.1 has no layers in float16 on the CPU."""
    image = torch.ones(1, 1, 1, 1, dtype=dtype)
    try:
        F.conv2d(image, image)
    except RuntimeError as error:
        pytest.skip(str(error))


def labels_of(samples: list[DataSample]) -> Tensor:
    """The labels of a batch, shape (N, )."""
    return torch.cat([sample.gt_label for sample in samples])


def whole_batch(num: int = 4, seed: int = 0) -> dict[str, Any]:
    """The same batch, with its labels in one object."""
    batch = raw_batch(num, seed=seed)
    labels = BatchLabels(labels_of(batch['data_samples']))
    return dict(batch, data_samples=labels)
