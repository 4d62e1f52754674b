"""A short training of a combination, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .cases import Case
from .drawn_images import CLASSES

BATCH = 4
EPOCHS = 2
_PGD = dict(type='m2at_mm.PGD', steps=1)
_ATTACKS: dict[str, dict[str, Any]] = {
    'pgd': _PGD,
    'pgd l2': _PGD,
    'margin': dict(_PGD, loss='margin'),
    'batch norms': dict(_PGD, bn_mode='batch'),
    'fgsm': dict(type='m2at_mm.FGSM', random_start=True),
    'n-fgsm': dict(type='m2at_mm.NFGSM'),
}
_EVALUATED = {
    'pgd': _PGD,
    'apgd-ce': dict(type='m2at_mm.AutoAttack', attacks=['apgd-ce']),
}
_LOSSES = {
    'ce': dict(type='CrossEntropyLoss'),
    'smooth': dict(type='LabelSmoothLoss', label_smooth_val=0.1),
    'bce': dict(type='CrossEntropyLoss', use_sigmoid=True, use_soft=False),
    'seesaw': dict(type='SeesawLoss', num_classes=len(CLASSES)),
}
_DEFAULT_HOOKS = dict(
    runtime_info='RuntimeInfoHook',
    checkpoint='SafeCheckpointHook',
    input_check='InputCheckHook',
    rng_state='RNGStateHook',
    sync_buffers='SyncBuffersHook',
    overfitting='RobustOverfittingHook',
    preemption='PreemptionHook',
)
_AVERAGES = dict(ema='ExponentialMovingAverage', swa='StochasticWeightAverage')
_WATCHED = dict(monitor='robust/clean', rule='greater')


class Seen(Hook):
    """Which images each epoch was trained on, and the logged losses."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.images: list[int] = []
        self.losses: list[float] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        samples = data_batch['data_samples']
        self.images += [int(one.get('sample_idx', -1)) for one in samples]
        self.losses += [float(v) for k, v in outputs.items() if 'loss' in k]


class KilledError(Exception):
    """The training is interrupted here."""


class KillAt(Hook):
    """Interrupts a training before an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if runner.iter == self.iteration:
            raise KilledError


def _shape(case: Case) -> tuple[int, int, int]:
    """Height, width and channels."""
    name = '3x16x16' if case['images'] == 'one left' else case['images']
    channels, height, width = map(int, name.split('x'))
    return height, width, channels


def _network(case: Case) -> dict[str, Any]:
    height, width, channels = _shape(case)
    cnn = dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)
    arch = dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16
    )
    vit = dict(type='VisionTransformer', arch=arch, patch_size=4)
    vit.update(img_size=(height, width))
    squeezed = dict(type='SqueezingBackbone')
    pooled = dict(type='GlobalAveragePooling')
    stacked = dict(type='StackedLinearClsHead', mid_channels=[8])
    backbone, neck, head, width = {
        'linear': (cnn, pooled, dict(type='LinearClsHead'), 32),
        'arcface': (cnn, pooled, dict(type='ArcFaceClsHead'), 32),
        'stacked': (cnn, pooled, stacked, 32),
        'vit': (vit, None, dict(type='VisionTransformerClsHead'), 16),
        'no neck': (vit, None, dict(type='LinearClsHead'), 16),
        'squeezed': (squeezed, None, dict(type='LinearClsHead'), 8),
    }[case['network']]
    head.update(num_classes=len(CLASSES), in_channels=width)
    return dict(
        type='ImageClassifier',
        backbone=dict(backbone, in_channels=channels),
        neck=neck,
        head=dict(head, loss=_LOSSES[case['loss']]),
    )


def _model(case: Case) -> dict[str, Any]:
    channels = _shape(case)[2]
    name, _, pairing = case['method'].partition(' ')
    method: dict[str, Any] = dict(type=f'm2at_mm.{name}')
    if name == 'M2AT':
        method.update(perturbed_label=0.7)
    if pairing:
        method.update(pairing='batch')
    l2 = case['attack'] == 'pgd l2'
    preprocessor: dict[str, Any] = dict(
        mean=[120.0] * channels,
        std=[60.0] * channels,
        num_classes=len(CLASSES),
    )
    if case['labels'] == 'mixup':
        mixup = dict(type='Mixup', alpha=0.8)
        preprocessor.update(batch_augments=dict(augments=mixup))
    attack = _EVALUATED.get(case['evaluated'])
    return dict(
        type='m2at_mm.AdversarialClassifier',
        classifier=_network(case),
        data_preprocessor=preprocessor,
        threat_model=dict(
            norm='l2' if l2 else 'linf', eps='128/255' if l2 else '8/255'
        ),
        method=method,
        train_attack=_ATTACKS[case['attack']],
        eval_attacks=attack and dict(attack=attack),
        label_smoothing=0.1 if case['labels'] == 'smoothed' else 0.0,
    )


def _train_set(case: Case) -> dict[str, Any]:
    # In the innermost set, for three batches or a multiple.
    number = 9 if case['images'] == 'one left' else 12
    images = dict(
        type='DrawnImages',
        number=number,
        shape=_shape(case),
        one_hot=case['labels'] == 'one-hot',
        pipeline=[dict(type='PackInputs')],
    )
    return {
        'plain': images,
        'subset': dict(images, number=20, indices=number),
        'repeat': dict(type='RepeatDataset', times=2, dataset=images),
        'concat': dict(type='ConcatDataset', datasets=[images, images]),
        'balanced': dict(
            type='ClassBalancedDataset', oversample_thr=1e-3, dataset=images
        ),
        'kfold': dict(
            type='KFoldDataset',
            fold=0,
            num_splits=2,
            dataset=dict(images, number=2 * number),
        ),
    }[case['dataset']]


def _loader(dataset: dict[str, Any], **sampler: Any) -> dict[str, Any]:
    return dict(
        batch_size=BATCH,
        num_workers=0,
        persistent_workers=False,
        collate_fn=dict(type='default_collate'),
        dataset=dataset,
        sampler=sampler,
    )


def _validation(case: Case) -> dict[str, Any]:
    images = dict(
        type='DrawnImages',
        number=9,  # a last batch of one image
        shape=_shape(case),
        pipeline=[dict(type='PackInputs')],
    )
    return dict(
        val_dataloader=_loader(images, type='DefaultSampler', shuffle=False),
        val_cfg=dict(),
        val_evaluator=dict(type='m2at_mm.RobustAccuracy'),
    )


def _extras(case: Case, by_epoch: bool) -> dict[str, Any]:
    """Hooks and schedules."""
    custom, schedulers = [], []
    interval = 1 if by_epoch else 3
    if case['hook'] == 'early stopping':
        stop = dict(type='EarlyStoppingHook', patience=1)
        custom.append(dict(stop, **_WATCHED))
    if case['hook'] == 'guard':
        guard = dict(type='m2at_mm.CollapseGuardHook', action='warn', steps=1)
        custom.append(dict(guard, by_epoch=by_epoch, interval=interval))
    if case['hook'] == 'schedule':
        eps = dict(
            param='threat_model.eps',
            values=['1/255', '8/255'],
            milestones=[0, interval],
            by_epoch=by_epoch,
        )
        custom.append(dict(type='m2at_mm.AttackScheduleHook', schedules=[eps]))
    if case['hook'] == 'reduce rate':
        reduce = dict(type='ReduceOnPlateauLR', patience=0, by_epoch=by_epoch)
        schedulers.append(dict(reduce, **_WATCHED))
    if case['average'] != 'none':
        kind = _AVERAGES[case['average']]
        custom.append(dict(type='EMAHook', ema_type=kind))
    return dict(custom_hooks=custom, param_scheduler=schedulers)


def _optimiser(case: Case) -> dict[str, Any]:
    """Gradients are accumulated over whole epochs, which a resume needs."""
    wrapper: dict[str, Any] = dict(
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
    )
    if case['optimiser'] == 'accumulating':
        wrapper.update(accumulative_counts=3)
    if case['optimiser'] == 'awp':
        wrapper.update(type='m2at_mm.AWPOptimWrapper')
    return wrapper


def build_config(case: Case, work_dir: Path) -> Config:
    """The config of a combination."""
    by_epoch = case['loop'] != 'iterations'
    loop: dict[str, Any] = dict(by_epoch=False, max_iters=6, val_interval=3)
    if by_epoch:
        loop = dict(max_epochs=EPOCHS, val_interval=1)
        own = case['loop'] == 'epochs'
        kind = dict(type='m2at_mm.ResumableEpochTrainLoop')
        loop.update(kind if own else dict(by_epoch=True))
    kind = dict(default='DefaultSampler', infinite='InfiniteSampler')
    sampler = dict(type=kind[case['sampler']], shuffle=True)
    wrapper = dict(type='m2at_mm.AdversarialDistributedDataParallel')
    hooks: dict[str, dict[str, Any]] = {
        name: dict(type=f'm2at_mm.{hook}')
        for name, hook in _DEFAULT_HOOKS.items()
    }
    hooks['checkpoint'].update(
        by_epoch=by_epoch, interval=1 if by_epoch else 3
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            launcher='pytorch' if case['ranks'] > 1 else 'none',
            log_level='ERROR',
            randomness=dict(seed=0),
            model=_model(case),
            model_wrapper_cfg=wrapper,
            train_cfg=loop,
            train_dataloader=_loader(_train_set(case), **sampler),
            optim_wrapper=_optimiser(case),
            log_processor=dict(by_epoch=by_epoch),
            default_hooks=hooks,
            **_validation(case),
            **_extras(case, by_epoch),
        )
    )
