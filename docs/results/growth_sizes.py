# configs/m2at_resnet18_cifar10.py with images of another size, for growth.sh.
_base_ = ['../../configs/m2at_resnet18_cifar10.py']

data_preprocessor = dict(augment=None)
train_dataloader = dict(
    dataset=dict(
        whole_batches=False,
        pipeline=[
            dict(type='Resize', scale=32),
            dict(type='PackInputs'),
        ],
    )
)
