_base_ = './fast-at_resnet18_cifar10.py'

# Noise of 2 radii and a step of one, the authors' defaults (arXiv 2202.01181).
model = dict(
    train_attack=dict(_delete_=True, type='m2at_mm.NFGSM', noise=2.0, step=1.0)
)
