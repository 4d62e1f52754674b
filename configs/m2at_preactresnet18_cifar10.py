_base_ = './m2at_resnet18_cifar10.py'

# The network of arXiv 2002.11569.
model = dict(
    classifier=dict(
        backbone=dict(
            _delete_=True, type='m2at_mm.PreActResNet_CIFAR', depth=18
        )
    )
)
