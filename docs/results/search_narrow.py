# A plan for tools/compare.py: M2AT's options under the budget of
# compare_narrow.py, evaluated on the validation split:
#   python tools/compare.py docs/results/search_narrow.py \
#       --work-dir work_dirs/search_narrow --out docs/results/search_narrow \
#       --jobs 2
_base_ = 'compare_narrow.py'

seeds = [0]
evaluation = dict(_delete_=True, attacks=['pgd20', 'cw20'], num_samples=1000)
common = {'test_dataloader.dataset.split': 'val'}

_pgd5 = {
    'param_scheduler.milestones': '[8,11]',
    'model.train_attack.steps': 5,
    'model.train_attack.step_size': '3/255',
}
_config = 'configs/m2at_resnet18_cifar10.py'
_options = {
    'scale 2, label 0.8': dict(scale=2.0, perturbed_label=0.8),
    'scale 2, label 1': dict(scale=2.0, perturbed_label=1.0),
    'pixel, scale 2, label 0.8': dict(
        scale=2.0, perturbed_label=0.8, mask='pixel'
    ),
    'mix_alpha 0.2, scale 2, label 0.8': dict(
        scale=2.0, perturbed_label=0.8, mix_alpha=0.2
    ),
    'consistency 2, scale 2, label 1': dict(
        scale=2.0, perturbed_label=1.0, consistency=2.0
    ),
    'scale 1.5, label 0.7': dict(scale=1.5, perturbed_label=0.7),
    'batch, scale 2, label 0.8': dict(
        scale=2.0, perturbed_label=0.8, pairing='batch'
    ),
    'literal, scale 2, label 0.8': dict(
        scale=2.0, perturbed_label=0.8, label_order='literal'
    ),
}
runs = dict(
    _delete_=True,
    **{
        name: dict(
            config=_config,
            options={
                **_pgd5,
                **{f'model.method.{k}': v for k, v in chosen.items()},
            },
        )
        for name, chosen in _options.items()
    },
)
