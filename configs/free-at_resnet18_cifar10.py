_base_ = './m2at_resnet18_cifar10.py'

model = dict(
    train_attack=None,  # the training gradient serves for the attack, too
    method=dict(_delete_=True, type='m2at_mm.FreeAT'),
)

# Cropped and flipped by the dataset, so that a batch stays the same.
data_preprocessor = dict(augment=None)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
        whole_batches=False,
        serialize_data=True,
    )
)

# Each batch 8 times, the authors' best for CIFAR-10 (arXiv 1904.12843), in an
# eighth of the epochs of the other configs and with the same schedule.
train_cfg = dict(
    _delete_=True,
    type='m2at_mm.RepeatedBatchTrainLoop',
    repeats=8,
    max_epochs=25,
)
param_scheduler = dict(milestones=[12, 18])
