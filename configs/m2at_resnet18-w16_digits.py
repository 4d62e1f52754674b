# A quarter of ResNet-18's width on data that need no download: minutes on a
# CPU. The numbers are chosen for the demo.
_base_ = [
    '_base_/recipes/m2at.py',
    '_base_/datasets/digits.py',
    '_base_/default_runtime.py',
]

model = dict(
    classifier=dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            base_channels=16,
            stem_channels=16,
            num_stages=4,
            out_indices=(3,),
            style='pytorch',
            zero_init_residual=False,  # as in m2at_resnet18_cifar10.py
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=128,
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        ),
    ),
    # White strokes on black: a digit bears larger changes than a photo.
    threat_model=dict(eps='32/255'),
    train_attack=dict(steps=3, step_size='16/255'),
    # The plain definition: at this radius larger ones don't get going.
    method=dict(scale=1.0, consistency=0.0),
    eval_attacks=dict(pgd10=dict(step_size='8/255')),
)

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[5], gamma=0.1
)
train_cfg = dict(by_epoch=True, max_epochs=6, val_interval=1)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
