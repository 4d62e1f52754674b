_base_ = './m2at_resnet18_cifar10.py'

# 0.3 original to 0.7 generated images in every batch: arXiv 2103.01946 and
# 2302.04638. Of a batch of 128 that is 38 and 90, so that an epoch of the
# 49,000 original images has 1,290 batches in place of 383.
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='m2at_mm.OriginalAndGenerated',
        original=_base_.train_dataloader.dataset,
        generated=dict(
            type='m2at_mm.GeneratedImages',
            # `image` (N, 32, 32, 3), uint8, and `label` (N, )
            ann_file='data/generated/cifar10.npz',
        ),
    ),
    batch_sampler=dict(
        type='m2at_mm.FixedShareBatchSampler', original_share=0.3
    ),
)
