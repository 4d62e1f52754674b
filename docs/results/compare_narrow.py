# A plan for tools/compare.py, all methods on one small budget:
#   python tools/compare.py docs/results/compare_narrow.py \
#       --work-dir work_dirs/compare_narrow \
#       --out work_dirs/compare_narrow/table --jobs 2
# ResNet-18 at an eighth of the width, 6,000 training images, 12 epochs, PGD-5.
seeds = [0, 1]
checkpoint = 'last'  # twelve epochs are too few to overfit
evaluation = dict(
    attacks=['pgd20', 'cw20', 'apgd-ce', 'apgd-t'], num_samples=1000
)

common = {
    'model.classifier.backbone.base_channels': 8,
    'model.classifier.backbone.stem_channels': 8,
    'model.classifier.head.in_channels': 64,
    'train_dataloader.dataset.indices': 6000,
    'train_dataloader.batch_size': 64,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'test_dataloader.num_workers': 0,
    'train_cfg.max_epochs': 12,
    'train_cfg.val_interval': 12,
    'default_hooks.logger.interval': 20,
    'default_hooks.ema': None,  # later than these runs
}
_steps = {'param_scheduler.milestones': '[8,11]'}
_pgd5 = {
    **_steps,
    'model.train_attack.steps': 5,
    'model.train_attack.step_size': '3/255',
}
# The configs' own at that time.
_m2at = {
    **_pgd5,
    'model.method.scale': 1.5,
    'model.method.perturbed_label': 0.7,
    'model.method.consistency': 0.0,
}
_folder = 'configs/'
runs = {
    'standard': dict(
        config=_folder + 'standard_resnet18_cifar10.py', options=_steps
    ),
    'pgd-at': dict(
        config=_folder + 'pgd-at_resnet18_cifar10.py', options=_pgd5
    ),
    'm2at': dict(config=_folder + 'm2at_resnet18_cifar10.py', options=_m2at),
    'trades': dict(
        config=_folder + 'trades_resnet18_cifar10.py', options=_pgd5
    ),
    'mart': dict(config=_folder + 'mart_resnet18_cifar10.py', options=_pgd5),
    'avmixup': dict(
        config=_folder + 'avmixup_resnet18_cifar10.py', options=_pgd5
    ),
    'iat': dict(config=_folder + 'iat_resnet18_cifar10.py', options=_pgd5),
    # Its own cyclic schedule, over the same number of epochs.
    'fast-at': dict(
        config=_folder + 'fast-at_resnet18_cifar10.py',
        options={'param_scheduler.total_steps': 12},
    ),
    'm2at+awp': dict(
        config=_folder + 'm2at_resnet18_cifar10.py',
        options={**_m2at, 'optim_wrapper.type': 'm2at_mm.AWPOptimWrapper'},
    ),
    # The two that search_narrow.py found on validation images.
    'm2at_scale1': dict(
        config=_folder + 'm2at_resnet18_cifar10.py',
        options={**_m2at, 'model.method.scale': 1.0},
    ),
    'm2at_consistency6': dict(
        config=_folder + 'm2at_resnet18_cifar10.py',
        options={
            **_m2at,
            'model.method.consistency': 6.0,
            'model.method.perturbed_label': 1.0,
        },
    ),
}
