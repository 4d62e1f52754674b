_base_ = [
    '_base_/recipes/m2at.py',
    '_base_/datasets/cifar10.py',
    '_base_/schedules/cifar10_200e.py',
    '_base_/default_runtime.py',
]

model = dict(
    # mmpretrain's resnet18_cifar.py but for the start of the residual branches
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            num_stages=4,
            out_indices=(3,),
            style='pytorch',
            # Zero, mmpretrain's default, delays the first hundreds of
            # iterations under attack; the published code of adversarial
            # training starts from the usual random weights, too.
            zero_init_residual=False,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=512,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        ),
    )
)
