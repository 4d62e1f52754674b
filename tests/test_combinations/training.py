"""A short training of a combination, and what it shows."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny import NORMS

from .cases import Case
from .drawn_images import CLASSES

_EPOCHS = dict(max_epochs=2, val_interval=1)
_LOOPS = {
    'epochs': dict(_EPOCHS, type='m2at_mm.ResumableEpochTrainLoop'),
    'stock epochs': dict(_EPOCHS, by_epoch=True),
    'iterations': dict(by_epoch=False, max_iters=6, val_interval=3),
}
_PGD = dict(type='m2at_mm.PGD', steps=1)
_ATTACKS: dict[str, dict[str, Any]] = {
    'pgd': _PGD,
    'pgd l2': _PGD,
    'margin': dict(_PGD, loss='margin'),
    'batch norms': dict(_PGD, bn_mode='batch'),
    'fgsm': dict(type='m2at_mm.FGSM', random_start=True),
    'n-fgsm': dict(type='m2at_mm.NFGSM'),
}
_APGD = dict(type='m2at_mm.AutoAttack', attacks=['apgd-ce'])
_EVALUATED = {'pgd': _PGD, 'apgd-ce': _APGD}
_LOSSES = {
    'ce': dict(type='CrossEntropyLoss'),
    'smooth': dict(type='LabelSmoothLoss', label_smooth_val=0.1),
    'bce': dict(type='CrossEntropyLoss', use_sigmoid=True, use_soft=False),
    'seesaw': dict(type='SeesawLoss', num_classes=len(CLASSES)),
}
_HOOKS = 'InputCheck RNGState SyncBuffers RobustOverfitting Preemption'
_WRAPPERS: dict[str, dict[str, Any]] = {
    'plain': {},
    # Over whole epochs, which a resume needs.
    'accumulating': dict(accumulative_counts=3),
    'awp': dict(type='m2at_mm.AWPOptimWrapper'),
}
_AVERAGES: dict[str, dict[str, Any]] = {
    'ema': dict(type='EMAHook'),
    'swa': dict(type='EMAHook', ema_type='StochasticWeightAverage'),
    'ours': dict(type='m2at_mm.AveragedWeightsHook'),
}
_WATCHED = dict(monitor='robust/clean', rule='greater')


class Seen(Hook):
    """Which images each epoch was trained on, and the logged losses."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.images: list[int] = []
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, *_: Any, data_batch: Any, outputs: Any, **__: Any
    ) -> None:
        samples = data_batch['data_samples']
        self.images += [int(one.get('sample_idx', -1)) for one in samples]
        self.losses += [float(v) for k, v in outputs.items() if 'loss' in k]


def _shape(case: Case) -> tuple[int, int, int]:
    """Height, width and channels."""
    name = '3x16x16' if case['images'] == 'one left' else case['images']
    channels, height, width = map(int, name.split('x'))
    return height, width, channels


def _network(case: Case) -> dict[str, Any]:
    height, width, channels = _shape(case)
    cnn = dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)
    arch = dict(embed_dims=16, num_layers=1, num_heads=2)
    arch.update(feedforward_channels=16)
    vit = dict(type='VisionTransformer', arch=arch, patch_size=4)
    vit.update(img_size=(height, width))
    squeezed = dict(type='SqueezingBackbone')
    backbone, head, width = {
        'linear': (cnn, 'LinearClsHead', 32),
        'arcface': (cnn, 'ArcFaceClsHead', 32),
        'stacked': (cnn, 'StackedLinearClsHead', 32),
        'vit': (vit, 'VisionTransformerClsHead', 16),
        'no neck': (vit, 'LinearClsHead', 16),
        'squeezed': (squeezed, 'LinearClsHead', 8),
    }[case['network']]
    settings: dict[str, Any] = dict(num_classes=len(CLASSES))
    if case['network'] == 'stacked':
        settings.update(mid_channels=[8])
    settings.update(in_channels=width, loss=_LOSSES[case['loss']])
    neck = dict(type='GlobalAveragePooling') if backbone is cnn else None
    backbone = dict(backbone, in_channels=channels)
    parts = dict(backbone=backbone, neck=neck, head=dict(settings, type=head))
    return dict(parts, type='ImageClassifier')


def _model(case: Case) -> dict[str, Any]:
    channels = _shape(case)[2]
    name, _, pairing = case['method'].partition(' ')
    method: dict[str, Any] = dict(type=f'm2at_mm.{name}')
    if name == 'M2AT':
        method.update(perturbed_label=0.7)
    if pairing:
        method.update(pairing='batch')
    preprocessor: dict[str, Any] = dict(num_classes=len(CLASSES))
    preprocessor.update(mean=[120.0] * channels, std=[60.0] * channels)
    if case['labels'] == 'mixup':
        mixup = dict(type='Mixup', alpha=0.8)
        preprocessor.update(batch_augments=dict(augments=mixup))
    attack = _EVALUATED.get(case['evaluated'])
    return dict(
        type='m2at_mm.AdversarialClassifier',
        classifier=_network(case),
        data_preprocessor=preprocessor,
        threat_model=NORMS['l2' if case['attack'] == 'pgd l2' else 'linf'],
        method=method,
        train_attack=_ATTACKS[case['attack']],
        eval_attacks=attack and dict(attack=attack),
        label_smoothing=0.1 if case['labels'] == 'smoothed' else 0.0,
    )


def _images(case: Case, number: int, **settings: Any) -> dict[str, Any]:
    images = dict(type='DrawnImages', number=number, shape=_shape(case))
    return dict(images, pipeline=[dict(type='PackInputs')], **settings)


def _train_set(case: Case) -> dict[str, Any]:
    # In the innermost set, for three batches or a multiple.
    number = 9 if case['images'] == 'one left' else 12
    one_hot = case['labels'] == 'one-hot'
    images = _images(case, number, one_hot=one_hot)
    twice = dict(images, number=2 * number)
    return {
        'plain': images,
        'subset': dict(images, number=20, indices=number),
        'repeat': dict(type='RepeatDataset', times=2, dataset=images),
        'concat': dict(type='ConcatDataset', datasets=[images, images]),
        'balanced': dict(
            type='ClassBalancedDataset', oversample_thr=1e-3, dataset=images
        ),
        'kfold': dict(
            type='KFoldDataset', fold=0, num_splits=2, dataset=twice
        ),
    }[case['dataset']]


def _loader(dataset: dict[str, Any], **sampler: Any) -> dict[str, Any]:
    settings = dict(batch_size=4, num_workers=0, persistent_workers=False)
    settings.update(collate_fn=dict(type='default_collate'))
    return dict(settings, dataset=dataset, sampler=sampler)


def _extras(case: Case, **by: Any) -> dict[str, Any]:
    """Hooks and schedules; ``by`` are by_epoch and interval."""
    steps, by_epoch = [0, by['interval']], by['by_epoch']
    eps: dict[str, Any] = dict(milestones=steps, by_epoch=by_epoch)
    eps.update(param='threat_model.eps', values=['1/255', '8/255'])
    hooks: dict[str, dict[str, Any]] = {
        'early stopping': dict(
            type='EarlyStoppingHook', patience=1, **_WATCHED
        ),
        'guard': dict(type='m2at_mm.CollapseGuardHook', action='warn', **by),
        'schedule': dict(type='m2at_mm.AttackScheduleHook', schedules=[eps]),
    }
    hooks['guard'].update(steps=1)
    custom = [hooks[case['hook']]] if case['hook'] in hooks else []
    if case['average'] != 'none':
        custom.append(_AVERAGES[case['average']])
    reduce = dict(type='ReduceOnPlateauLR', patience=0, by_epoch=by_epoch)
    reduces = case['hook'] == 'reduce rate'
    schedulers = [dict(reduce, **_WATCHED)] if reduces else []
    return dict(custom_hooks=custom, param_scheduler=schedulers)


def build_config(case: Case, work_dir: Path) -> Config:
    """The config of a combination."""
    by_epoch = case['loop'] != 'iterations'
    by = dict(by_epoch=by_epoch, interval=1 if by_epoch else 3)
    sampler = dict(type=f'{case["sampler"].title()}Sampler', shuffle=True)
    hooks: dict[str, dict[str, Any]] = dict(
        runtime_info=dict(type='m2at_mm.RuntimeInfoHook'),
        checkpoint=dict(type='m2at_mm.SafeCheckpointHook', **by),
        **{k: dict(type=f'm2at_mm.{k}Hook') for k in _HOOKS.split()},
    )
    images = _images(case, 9)  # a last batch of one image
    validation = _loader(images, type='DefaultSampler', shuffle=False)
    sgd = dict(type='SGD', lr=0.01, momentum=0.9)
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            launcher='pytorch' if case['ranks'] > 1 else 'none',
            log_level='ERROR',
            randomness=dict(seed=0),
            model=_model(case),
            model_wrapper_cfg=dict(
                type='m2at_mm.AdversarialDistributedDataParallel'
            ),
            train_cfg=_LOOPS[case['loop']],
            train_dataloader=_loader(_train_set(case), **sampler),
            val_dataloader=validation,
            val_cfg=dict(),
            val_evaluator=dict(type='m2at_mm.RobustAccuracy'),
            optim_wrapper=dict(optimizer=sgd, **_WRAPPERS[case['optimiser']]),
            log_processor=dict(by_epoch=by_epoch),
            default_hooks=hooks,
            **_extras(case, **by),
        )
    )
