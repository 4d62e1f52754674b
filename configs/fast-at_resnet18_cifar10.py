_base_ = './pgd-at_resnet18_cifar10.py'

model = dict(
    # FGSM-RS: a step of 1.25 radii, 10/255, from a random start
    # (arXiv 2001.03994).
    train_attack=dict(
        _delete_=True, type='m2at_mm.FGSM', random_start=True, step=1.25
    )
)

# Short and cyclic, as one-step attacks are trained: 30 epochs with a rate of
# 0.2 at the peak (arXiv 2202.01181). Longer, they overfit to the one step.
optim_wrapper = dict(optimizer=dict(lr=0.2))
param_scheduler = dict(
    _delete_=True,
    type='OneCycleLR',
    eta_max=0.2,
    total_steps=30,
    pct_start=0.5,
    anneal_strategy='linear',
    convert_to_iter_based=True,
)
train_cfg = dict(max_epochs=30)
