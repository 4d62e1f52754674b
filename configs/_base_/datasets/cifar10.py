# CIFAR-10 with a validation split held out of the training images.
data_preprocessor = dict(
    num_classes=10,
    # RGB mean and std on the 0-255 scale, of the training images: those of
    # mmpretrain's cifar10_bs16.py.
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    to_rgb=False,  # the dataset gives RGB
    # mmpretrain's RandomCrop and RandomFlip of cifar10_bs16.py, on the device
    augment=dict(crop_padding=4, flip_prob=0.5),
)

train_pipeline = [dict(type='PackInputs')]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=128,  # arXiv 2010.00467, table 4
    num_workers=2,
    dataset=dict(
        type='m2at_mm.CIFAR10',
        data_root='data/cifar10',
        split='train',
        pipeline=train_pipeline,
        whole_batches=True,
        serialize_data=False,  # else each image is unpickled when it is read
    ),
    collate_fn=dict(type='m2at_mm.whole_batch_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(
        type='m2at_mm.CIFAR10',
        data_root='data/cifar10',
        split='val',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(
        type='m2at_mm.CIFAR10',
        data_root='data/cifar10',
        split='test',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
