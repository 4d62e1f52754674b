# A plan for tools/compare.py: curves of clean against worst-case accuracy in a
# regime in which PGD-AT overfits robustly.
#   PYTHONPATH=docs/results python tools/compare.py \
#       docs/results/trade_off.py --work-dir work_dirs/trade_off \
#       --out work_dirs/trade_off/table --jobs 2
# ResNet-18 at a quarter of the width, 2,000 training images, flips and no
# crops, 30 epochs, PGD-3, training in bfloat16 (and evaluation in float32).
seeds = [0, 1]
evaluation = dict(
    attacks=['pgd20', 'cw20', 'apgd-ce', 'apgd-t'],
    num_samples=1000,
    eps='8/255',
)

common = {
    'model.classifier.backbone.base_channels': 16,
    'model.classifier.backbone.stem_channels': 16,
    'model.classifier.head.in_channels': 128,
    'model.data_preprocessor.augment.crop_padding': 0,
    'model.train_attack.steps': 3,
    'model.train_attack.step_size': '4/255',
    'train_dataloader.dataset.indices': 2000,
    'train_dataloader.batch_size': 32,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'val_dataloader.dataset.indices': 500,
    'test_dataloader.num_workers': 0,
    'optim_wrapper.type': 'trade_off_variants.Bfloat16OptimWrapper',
    'optim_wrapper.optimizer.lr': 0.05,
    'train_cfg.max_epochs': 30,
    'train_cfg.val_interval': 3,
    'default_hooks.logger.interval': 31,
}
_steps = {'param_scheduler.milestones': '[18,24]'}
_raw = {'default_hooks.ema': None}
_m2at = 'configs/m2at_resnet18_cifar10.py'
_curves = {
    # Radii of training; the step is half of the radius.
    'pgd-at': dict(
        config='configs/pgd-at_resnet18_cifar10.py',
        dial={
            'model.threat_model.eps': ['4/255', '6/255', '8/255'],
            'model.train_attack.step_size': ['2/255', '3/255', '4/255'],
        },
    ),
    'm2at': dict(
        config=_m2at,
        dial={
            'model.method.scale': [1.0, 1.5, 2.0],
            'model.method.perturbed_label': [0.5, 0.7, 0.8],
        },
        options={'model.method.consistency': 0.0},
    ),
    # Hard labels and the loss of TRADES.
    'm2at_trades': dict(
        config=_m2at,
        dial={'model.method.scale': [1.0, 1.5, 2.0]},
        options={
            'model.method.consistency': 6.0,
            'model.method.perturbed_label': 1.0,
        },
    ),
    'trades': dict(
        config='configs/trades_resnet18_cifar10.py',
        dial={'model.method.beta': [1.0, 3.0, 6.0]},
    ),
    'avmixup': dict(
        config='configs/avmixup_resnet18_cifar10.py',
        dial={'model.method.gamma': [1.0, 1.5, 2.0]},
    ),
}
runs = {
    f'{_name}{_suffix}': {
        **_curve,
        'options': _steps | _options | _curve.get('options', {}),
    }
    for _suffix, _options in (('', _raw), ('+ema', {}))
    for _name, _curve in _curves.items()
}
# M2AT with hard labels alone, at one scale.
runs['m2at_hard+ema'] = dict(
    config=_m2at,
    dial={'model.method.scale': [2.0]},
    options={
        **_steps,
        'model.method.consistency': 0.0,
        'model.method.perturbed_label': 1.0,
    },
)
