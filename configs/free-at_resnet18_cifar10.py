_base_ = './m2at_resnet18_cifar10.py'

model = dict(
    train_attack=None,  # the training gradient serves for the attack, too
    method=dict(_delete_=True, type='m2at_mm.FreeAT'),
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
