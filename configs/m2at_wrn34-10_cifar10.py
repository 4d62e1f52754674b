_base_ = './m2at_resnet18_cifar10.py'

# The network of most work on CIFAR-10 since arXiv 1706.06083.
model = dict(
    classifier=dict(
        backbone=dict(
            _delete_=True,
            type='m2at_mm.WideResNet_CIFAR',
            depth=34,
            widen_factor=10,
        ),
        head=dict(in_channels=640),
    )
)
