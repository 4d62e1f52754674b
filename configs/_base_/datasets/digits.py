# The digits of scikit-learn: real handwriting, 8x8 pixels enlarged to 32x32.
data_preprocessor = dict(
    num_classes=10,
    # To about [-1, 1].
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=False,  # the dataset gives RGB
    augment=dict(crop_padding=4),  # no flip: 2 is not S
)

train_pipeline = [dict(type='PackInputs')]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # the images are in memory
    # mmpretrain's tools/train.py would set it to True, which needs workers.
    persistent_workers=False,
    dataset=dict(
        type='m2at_mm.Digits',
        split='train',
        pipeline=train_pipeline,
        whole_batches=True,
        serialize_data=False,  # else each image is unpickled when it is read
    ),
    collate_fn=dict(type='m2at_mm.whole_batch_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='m2at_mm.Digits', split='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='m2at_mm.Digits', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
