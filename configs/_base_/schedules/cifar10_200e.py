# The schedule of the work on robust overfitting (arXiv 2002.11569, section
# 2): 200 epochs, SGD at 0.1, divided by 10 after epochs 100 and 150.
optim_wrapper = dict(
    optimizer=dict(
        type='SGD',
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,  # "critical" for robustness: arXiv 2010.00467
    )
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[100, 150], gamma=0.1
)

train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=128)
