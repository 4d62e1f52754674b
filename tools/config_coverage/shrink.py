"""Makes a classification config small enough for two steps on a CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict

from m2at_mm.cli import LOADERS
from m2at_mm.recipes import fit

#: Sides of the input that are tried, before the config's own.
SMALL_SIZES = (64, 128)
#: Blocks that a narrowed stage keeps at most.
_FEW_BLOCKS = 2
# Settings of image transforms that are sizes in pixels.
_SIZE_KEYS = ('scale', 'crop_size', 'size')
# Transforms whose scale is the size of the network's input.
_RESIZERS = ('RandomResizedCrop', 'EfficientNetRandomCrop', 'Resize')
# Datasets with images of their own size, which their networks expect.
_SMALL_DATASETS = {'CIFAR10': 32, 'CIFAR100': 32, 'MNIST': 32}


def input_sizes(cfg: Config) -> list[int]:
    """The sides in pixels to try for a config, smallest first."""
    dataset = fit.leaf_datasets(cfg.train_dataloader.dataset)[0]
    if dataset.type in _SMALL_DATASETS:
        return [_SMALL_DATASETS[dataset.type]]
    own = [
        value if isinstance(value, int) else max(value)
        for step in _steps(dataset.pipeline)
        if _is_size(step.get('crop_size')) or step.get('type') in _RESIZERS
        for value in [step.get('crop_size', step.get('scale'))]
    ]
    largest = max(own, default=224)
    return [*(size for size in SMALL_SIZES if size < largest), largest]


def use_folder(cfg: Config, root: Path, size: int, batch_size: int) -> None:
    """Read images of a folder at a small size, two batches to train on.

    The folder has ``{train,test}/<class>/*``. Transforms and batch
    augmentations stay the config's own.
    """
    for name in filter(cfg.get, LOADERS):
        loader = cfg[name]
        stock = fit.leaf_datasets(loader.dataset)[0]
        pipeline = stock.pipeline
        for step in _steps(pipeline):
            for key in _SIZE_KEYS:
                if _is_size(step.get(key)):
                    step[key] = size
        if all(step.get('type') != 'LoadImageFromFile' for step in pipeline):
            pipeline.insert(0, ConfigDict(type='LoadImageFromFile'))
        if stock.type == 'MNIST':
            pipeline[0].color_type = 'grayscale'
        training = name == 'train_dataloader'
        loader.dataset = ConfigDict(type='CustomDataset', pipeline=pipeline)
        loader.dataset.data_root = str(root)
        loader.dataset.data_prefix = 'train' if training else 'test'
        loader.dataset.indices = batch_size * (2 if training else 1)
        loader.pop('collate_fn', None)
        loader.update(
            batch_size=batch_size,
            num_workers=0,
            persistent_workers=False,
            # Samplers that repeat images need more of them.
            sampler=dict(type='DefaultSampler', shuffle=training),
            collate_fn=dict(type='default_collate'),
        )


def fit_network(classifier: ConfigDict, size: int) -> None:
    """Tell a network that needs to know it the side of its input in pixels."""
    backbone = fit.inner_backbone(classifier)
    if backbone is None:
        return
    known = fit.constructor_defaults(fit.model_class(backbone.type))
    if 'img_size' in known:
        backbone.img_size = size
    if 'pad_small_map' in known:  # windows larger than the whole map
        backbone.pad_small_map = True


def forget_checkpoints(cfg: Config) -> None:
    """Begin with random weights: no file is at hand."""
    cfg.load_from = None
    cfg.resume = False
    _forget_pretrained(cfg.model)


def narrow(classifier: ConfigDict) -> str | None:
    """Keep two blocks per stage of a network whose depth its config names.

    Tells what was done, None if nothing could be.
    """
    backbone = fit.inner_backbone(classifier)
    if backbone is None:
        return None
    kind = fit.model_class(backbone.type)
    known = getattr(kind, 'arch_zoo', getattr(kind, 'arch_settings', {}))
    arch = backbone.get('arch', fit.constructor_defaults(kind).get('arch'))
    settings = arch if isinstance(arch, dict) else _entry(known, arch)
    if not isinstance(settings, dict):
        return None
    settings = dict(settings)
    depths = {'num_layers', 'depths', 'layers'} & settings.keys()
    for key in depths:
        settings[key] = np.minimum(settings[key], _FEW_BLOCKS).tolist()
    backbone.arch = settings
    if backbone.get('frozen_stages', 0) > _FEW_BLOCKS:
        backbone.frozen_stages = _FEW_BLOCKS
    if isinstance(settings.get('num_layers'), int):
        backbone.pop('out_indices', None)
    return f'{_FEW_BLOCKS} blocks per stage' if depths else None


def _entry(known: Any, arch: Any) -> Any:
    """An architecture by name; some names stand together in one key."""
    for names, settings in known.items() if isinstance(known, dict) else ():
        if arch == names or (isinstance(names, tuple) and arch in names):
            return settings
    return None


def _steps(pipeline: Any) -> Iterator[ConfigDict]:
    """The transforms of a pipeline, also those inside others."""
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            yield from _steps(step)
        elif isinstance(step, dict):
            yield step
            yield from _steps(step.get('transforms', ()))


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(side, int) for side in sides)
    return bool(sides) and whole and min(sides) >= 16


def _forget_pretrained(part: Any) -> None:
    if isinstance(part, dict):
        part.pop('pretrained', None)
        given = part.get('init_cfg')
        every = given if isinstance(given, (list, tuple)) else [given or {}]
        kept = [one for one in every if one.get('type') != 'Pretrained']
        if len(kept) < len(every):
            part['init_cfg'] = kept or None
        part = [*part.values()]
    if isinstance(part, (list, tuple)):
        for value in part:
            _forget_pretrained(value)
