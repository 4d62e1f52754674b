# A plan for tools/compare.py: M2AT's options under the budget of
# compare_narrow.py, evaluated on the validation split:
#   python tools/compare.py docs/results/search_narrow.py \
#       --work-dir work_dirs/search_narrow \
#       --out work_dirs/search_narrow/table --jobs 2
# Scale and the consistency loss first, then the other options around the scale
# that did better. PGD-AT and TRADES are there to compare with.
_base_ = 'compare_narrow.py'

seeds = [0]
evaluation = dict(_delete_=True, attacks=['pgd20', 'cw20'], num_samples=1000)
common = {'test_dataloader.dataset.split': 'val'}

_pgd5 = {
    'param_scheduler.milestones': '[8,11]',
    'model.train_attack.steps': 5,
    'model.train_attack.step_size': '3/255',
}
# The configs' own at that time.
_m2at = dict(scale=1.5, perturbed_label=0.7, consistency=0.0)
_options = {
    'm2at': dict(),
    'scale 1': dict(scale=1.0),
    'consistency 6, label 1': dict(consistency=6.0, perturbed_label=1.0),
    'scale 1, label 1': dict(scale=1.0, perturbed_label=1.0),
    'scale 1, pixel': dict(scale=1.0, mask='pixel'),
    'scale 1, mix_alpha 0.2': dict(scale=1.0, mix_alpha=0.2),
    'scale 1, batch': dict(scale=1.0, pairing='batch'),
    'scale 1, literal': dict(scale=1.0, label_order='literal'),
}
runs = dict(
    _delete_=True,
    **{
        name: dict(config=f'configs/{name}_resnet18_cifar10.py', options=_pgd5)
        for name in ('pgd-at', 'trades')
    },
    **{
        name: dict(
            config='configs/m2at_resnet18_cifar10.py',
            options={
                **_pgd5,
                **{
                    f'model.method.{k}': v for k, v in (_m2at | chosen).items()
                },
            },
        )
        for name, chosen in _options.items()
    },
)
