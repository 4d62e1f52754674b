_base_ = './pgd-at_resnet18_cifar10.py'

model = dict(classifier=dict(head=dict(num_classes=100)))

data_preprocessor = dict(
    num_classes=100,
    # RGB mean and std of the training images: mmpretrain's cifar100_bs16.py
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
)
train_dataloader = dict(
    dataset=dict(type='m2at_mm.CIFAR100', data_root='data/cifar100')
)
val_dataloader = dict(
    dataset=dict(type='m2at_mm.CIFAR100', data_root='data/cifar100')
)
test_dataloader = dict(
    dataset=dict(type='m2at_mm.CIFAR100', data_root='data/cifar100')
)
