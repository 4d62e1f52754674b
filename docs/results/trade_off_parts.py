# A plan for tools/compare.py: what M2AT is made of, in the regime of
# trade_off.py, which it must lie beside.
#   PYTHONPATH=docs/results python tools/compare.py \
#       docs/results/trade_off_parts.py --work-dir work_dirs/trade_off_parts \
#       --out work_dirs/trade_off_parts/table --jobs 2
_base_ = './trade_off.py'

seeds = [0, 1]
common = {'model.train_attack.step_size': '4/255'}
_m2at = 'configs/m2at_resnet18_cifar10.py'
_own = 'docs/results/trade_off_m2at.py'
runs = dict(
    _delete_=True,
    whole=dict(config=_m2at),
    # One label, whatever is kept.
    hard_label=dict(
        config=_m2at, options={'model.method.perturbed_label': 1.0}
    ),
    # No mask: the share of the whole perturbation is drawn for each image.
    random_share=dict(
        config=_own, options={'model.method.type': 'm2at_mm.RandomShare'}
    ),
    # Neither mask nor draw: half of the perturbation, with the label of it.
    constant_share=dict(
        config=_own, options={'model.method.type': 'm2at_mm.ConstantShare'}
    ),
    # Only the label of a half: PGD-AT with smoothed labels.
    label_alone=dict(
        config='configs/pgd-at_resnet18_cifar10.py',
        options={'model.label_smoothing': 0.15},
    ),
    # Masks drawn anew in each step of the attack.
    masked_attack=dict(
        config=_own, options={'model.method.type': 'm2at_mm.MaskedAttack'}
    ),
    # On the loss of TRADES.
    trades_loss=dict(
        config=_m2at,
        options={
            'model.method.consistency': 6.0,
            'model.method.perturbed_label': 1.0,
        },
    ),
)
