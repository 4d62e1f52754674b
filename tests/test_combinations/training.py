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
_ATTACKS: dict[str, dict[str, Any]] = {
    'pgd': dict(type='m2at_mm.PGD', steps=1),
    'pgd l2': dict(type='m2at_mm.PGD', steps=1),
    'margin': dict(type='m2at_mm.PGD', steps=1, loss='margin'),
    'batch norms': dict(type='m2at_mm.PGD', steps=1, bn_mode='batch'),
    'fgsm': dict(type='m2at_mm.FGSM', random_start=True),
    'n-fgsm': dict(type='m2at_mm.NFGSM'),
}
_EVALUATED = {
    'pgd': dict(type='m2at_mm.PGD', steps=1),
    'apgd-ce': dict(type='m2at_mm.AutoAttack', attacks=['apgd-ce']),
}
_LOSSES = {
    'ce': dict(type='CrossEntropyLoss'),
    'smooth': dict(type='LabelSmoothLoss', label_smooth_val=0.1),
    'bce': dict(type='CrossEntropyLoss', use_sigmoid=True, use_soft=False),
    'seesaw': dict(type='SeesawLoss', num_classes=len(CLASSES)),
}
_HOOKS: dict[str, list[dict[str, Any]]] = {
    'none': [],
    'early stopping': [
        dict(
            type='EarlyStoppingHook',
            monitor='robust/clean',
            rule='greater',
            patience=1,
        )
    ],
    'reduce rate': [],
}


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


def shape_of(case: Case) -> tuple[int, int, int]:
    """Height, width and channels."""
    name = '3x16x16' if case['images'] == 'one left' else case['images']
    channels, height, width = map(int, name.split('x'))
    return height, width, channels


def number_of_images(case: Case) -> int:
    """Of the innermost training set, for three batches or a multiple."""
    return 9 if case['images'] == 'one left' else 12


def _network(case: Case) -> dict[str, Any]:
    height, width, channels = shape_of(case)
    cnn = dict(
        type='ResNet_CIFAR',
        depth=18,
        base_channels=4,
        stem_channels=4,
        in_channels=channels,
    )
    vit = dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16
        ),
        img_size=(height, width),
        patch_size=4,
        in_channels=channels,
    )
    squeezed = dict(type='SqueezingBackbone', in_channels=channels)
    pooled = dict(type='GlobalAveragePooling')
    backbone, neck, head, width = {
        'linear': (cnn, pooled, dict(type='LinearClsHead'), 32),
        'arcface': (cnn, pooled, dict(type='ArcFaceClsHead'), 32),
        'stacked': (
            cnn,
            pooled,
            dict(type='StackedLinearClsHead', mid_channels=[8]),
            32,
        ),
        'vit': (vit, None, dict(type='VisionTransformerClsHead'), 16),
        'no neck': (vit, None, dict(type='LinearClsHead'), 16),
        'squeezed': (squeezed, None, dict(type='LinearClsHead'), 8),
    }[case['network']]
    head.update(
        num_classes=len(CLASSES), in_channels=width, loss=_LOSSES[case['loss']]
    )
    return dict(
        type='ImageClassifier', backbone=backbone, neck=neck, head=head
    )


def _model(case: Case) -> dict[str, Any]:
    channels = shape_of(case)[2]
    name, _, pairing = case['method'].partition(' ')
    method: dict[str, Any] = dict(type=f'm2at_mm.{name}')
    if name == 'M2AT':
        method.update(perturbed_label=0.7)
    if pairing:
        method.update(pairing='batch')
    l2 = case['attack'] == 'pgd l2'
    preprocessor = dict(
        mean=[120.0] * channels,
        std=[60.0] * channels,
        num_classes=len(CLASSES),
    )
    if case['labels'] == 'mixup':
        preprocessor['batch_augments'] = dict(
            augments=dict(type='Mixup', alpha=0.8)
        )
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
    images = dict(
        type='DrawnImages',
        number=number_of_images(case),
        shape=shape_of(case),
        one_hot=case['labels'] == 'one-hot',
        pipeline=[dict(type='PackInputs')],
    )
    return {
        'plain': images,
        'subset': dict(images, number=20, indices=images['number']),
        'repeat': dict(type='RepeatDataset', times=2, dataset=images),
        'concat': dict(type='ConcatDataset', datasets=[images, images]),
        'balanced': dict(
            type='ClassBalancedDataset', oversample_thr=1e-3, dataset=images
        ),
        'kfold': dict(
            type='KFoldDataset',
            fold=0,
            num_splits=2,
            dataset=dict(images, number=2 * images['number']),
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
        shape=shape_of(case),
        pipeline=[dict(type='PackInputs')],
    )
    return dict(
        val_dataloader=_loader(images, type='DefaultSampler', shuffle=False),
        val_cfg=dict(),
        val_evaluator=dict(type='m2at_mm.RobustAccuracy'),
    )


def _extras(case: Case, by_epoch: bool) -> dict[str, Any]:
    """Hooks and schedules."""
    custom = list(_HOOKS.get(case['hook'], []))
    if case['hook'] == 'guard':
        custom.append(
            dict(
                type='m2at_mm.CollapseGuardHook',
                action='warn',
                steps=1,
                by_epoch=by_epoch,
                interval=1 if by_epoch else 3,
            )
        )
    schedulers = []
    if case['hook'] == 'schedule':
        end = 1 if by_epoch else 3
        eps = dict(
            param='threat_model.eps',
            values=['1/255', '8/255'],
            milestones=[0, end],
            by_epoch=by_epoch,
        )
        custom.append(dict(type='m2at_mm.AttackScheduleHook', schedules=[eps]))
    if case['hook'] == 'reduce rate':
        schedulers.append(
            dict(
                type='ReduceOnPlateauLR',
                monitor='robust/clean',
                rule='greater',
                patience=0,
                by_epoch=by_epoch,
            )
        )
    if case['average'] != 'none':
        kind = dict(
            ema='ExponentialMovingAverage', swa='StochasticWeightAverage'
        )
        custom.append(dict(type='EMAHook', ema_type=kind[case['average']]))
    return dict(custom_hooks=custom, param_scheduler=schedulers)


def _optimiser(case: Case) -> dict[str, Any]:
    """Gradients are accumulated over whole epochs, as checkpoints need it."""
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
    loops = {
        'epochs': dict(type='m2at_mm.ResumableEpochTrainLoop'),
        'stock epochs': dict(by_epoch=True),
        'iterations': dict(by_epoch=False, max_iters=6, val_interval=3),
    }
    loop = dict(loops[case['loop']])
    if by_epoch:
        loop.update(max_epochs=EPOCHS, val_interval=1)
    kind = dict(default='DefaultSampler', infinite='InfiniteSampler')
    hooks = dict(
        runtime_info=dict(type='m2at_mm.RuntimeInfoHook'),
        checkpoint=dict(
            type='m2at_mm.SafeCheckpointHook',
            by_epoch=by_epoch,
            interval=1 if by_epoch else 3,
        ),
        **{
            name: dict(type=f'm2at_mm.{hook}')
            for name, hook in dict(
                input_check='InputCheckHook',
                rng_state='RNGStateHook',
                sync_buffers='SyncBuffersHook',
                overfitting='RobustOverfittingHook',
                preemption='PreemptionHook',
            ).items()
        },
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
            model_wrapper_cfg=dict(
                type='m2at_mm.AdversarialDistributedDataParallel'
            ),
            train_cfg=loop,
            train_dataloader=_loader(
                _train_set(case), type=kind[case['sampler']], shuffle=True
            ),
            optim_wrapper=_optimiser(case),
            log_processor=dict(by_epoch=by_epoch),
            default_hooks=hooks,
            **_validation(case),
            **_extras(case, by_epoch),
        )
    )
