_base_ = './m2at_resnet18_cifar10.py'

model = dict(
    # The attack raises the divergence from the clean prediction, from noise of
    # 0.001: the authors' code (arXiv 1901.08573).
    train_attack=dict(loss='kl', noise_std=0.001),
    # beta 6: the authors' 1/lambda for CIFAR-10.
    method=dict(_delete_=True, type='m2at_mm.TRADES', beta=6.0),
)
