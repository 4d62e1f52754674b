# A plan for tools/compare.py: what M2AT is made of, in the regime of
# trade_off.py, which it must lie beside.
#   PYTHONPATH=docs/results python tools/compare.py \
#       docs/results/trade_off_parts.py --work-dir work_dirs/trade_off_parts \
#       --out work_dirs/trade_off_parts/table --jobs 2
_base_ = './trade_off.py'

evaluation = dict(
    _delete_=True, attacks=['pgd20', 'cw20'], num_samples=1000, eps='8/255'
)

_steps = {'param_scheduler.milestones': '[18,24]'}
# One cycle, without averaged weights.
_cycle = {
    'default_hooks.ema': None,
    'param_scheduler._delete_': True,
    'param_scheduler.type': 'OneCycleLR',
    'param_scheduler.by_epoch': False,
    'param_scheduler.eta_max': 0.05,
    # Iterations of 30 epochs.
    'param_scheduler.total_steps': 1890,
}
_scale2 = {
    'model.method.scale': 2.0,
    'model.method.perturbed_label': 0.8,
    'model.method.consistency': 0.0,
}
_variants = {
    'whole': {},
    # One label, whatever is kept.
    'hard_label': {'model.method.perturbed_label': 1.0},
    # No mask: the share of the whole perturbation is drawn for each image.
    'random_share': {'model.method.type': 'm2at_mm.RandomShare'},
    # Neither mask nor draw: the whole perturbation, and half of the label's
    # change, as PGD-AT with smoothed labels.
    'constant_share': {'model.method.type': 'm2at_mm.ConstantShare'},
    # Masks drawn anew in each step of the attack.
    'masked_attack': {'model.method.type': 'm2at_mm.MaskedAttack'},
    # On the loss of TRADES.
    'consistency': {
        'model.method.consistency': 6.0,
        'model.method.perturbed_label': 1.0,
    },
    'masked_consistency': {
        'model.method.type': 'm2at_mm.MaskedAttack',
        'model.method.consistency': 6.0,
        'model.method.perturbed_label': 1.0,
    },
    # The same loss without M2AT: the whole perturbation for every image.
    'consistency_alone': {
        'model.method.type': 'm2at_mm.ConstantShare',
        'model.method.consistency': 6.0,
        'model.method.perturbed_label': 1.0,
    },
}
_m2at = 'docs/results/trade_off_m2at.py'
_pgd_at = 'configs/pgd-at_resnet18_cifar10.py'
runs = {
    '_delete_': True,
    **{
        _name: dict(config=_m2at, options=_steps | _scale2 | _changes)
        for _name, _changes in _variants.items()
    },
    'pgd-at': dict(config=_pgd_at, options=_steps),
    'm2at_one_cycle': dict(config=_m2at, options=_cycle | _scale2),
    'pgd-at_one_cycle': dict(config=_pgd_at, options=_cycle),
}
