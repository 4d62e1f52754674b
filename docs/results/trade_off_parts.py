# A plan for tools/compare.py: what M2AT is made of, in the regime of
# trade_off.py, which it must lie beside.
#   PYTHONPATH=docs/results python tools/compare.py \
#       docs/results/trade_off_parts.py --work-dir work_dirs/trade_off_parts \
#       --out work_dirs/trade_off_parts/table --jobs 2
_base_ = './trade_off.py'

evaluation = dict(
    _delete_=True, attacks=['pgd20', 'cw20'], num_samples=1000, eps='8/255'
)

_averaged = {'param_scheduler.milestones': '[18,24]'}
_cycle = {
    'default_hooks.ema': None,
    'param_scheduler._delete_': True,
    'param_scheduler.type': 'OneCycleLR',
    'param_scheduler.by_epoch': False,
    'param_scheduler.eta_max': 0.05,
    # Iterations of 30 epochs.
    'param_scheduler.total_steps': 1890,
}
_pgd_at = {
    'model.threat_model.eps': '8/255',
    'model.train_attack.step_size': '4/255',
}
_m2at = {
    'model.method.scale': 2.0,
    'model.method.perturbed_label': 0.8,
    'model.train_attack.step_size': '4/255',
}
_config = 'configs/m2at_resnet18_cifar10.py'
_own = 'docs/results/trade_off_m2at.py'
runs = {
    '_delete_': True,
    'whole': dict(config=_config, options=_averaged | _m2at),
    # One label, whatever is kept.
    'hard_label': dict(
        config=_config,
        options=_averaged | _m2at | {'model.method.perturbed_label': 1.0},
    ),
    # No mask: the share of the whole perturbation is drawn for each image.
    'random_share': dict(
        config=_own,
        options=_averaged
        | _m2at
        | {'model.method.type': 'm2at_mm.RandomShare'},
    ),
    # Neither mask nor draw: the whole perturbation, and half of the label's
    # change, as PGD-AT with smoothed labels.
    'constant_share': dict(
        config=_own,
        options=_averaged
        | _m2at
        | {'model.method.type': 'm2at_mm.ConstantShare'},
    ),
    # Masks drawn anew in each step of the attack.
    'masked_attack': dict(
        config=_own,
        options=_averaged
        | _m2at
        | {'model.method.type': 'm2at_mm.MaskedAttack'},
    ),
    # On the loss of TRADES.
    'trades_loss': dict(
        config=_config,
        options=_averaged
        | _m2at
        | {
            'model.method.consistency': 6.0,
            'model.method.perturbed_label': 1.0,
        },
    ),
    'pgd-at': dict(
        config='configs/pgd-at_resnet18_cifar10.py',
        options=_averaged | _pgd_at,
    ),
    # A schedule of one cycle, without averaged weights.
    'm2at_one_cycle': dict(config=_config, options=_cycle | _m2at),
    'pgd-at_one_cycle': dict(
        config='configs/pgd-at_resnet18_cifar10.py', options=_cycle | _pgd_at
    ),
}
