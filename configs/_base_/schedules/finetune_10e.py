# Ten epochs from a trained checkpoint: the rate falls linearly from a tenth of
# the config's own to zero (ours).
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
param_scheduler = dict(
    type='LinearLR',
    by_epoch=True,
    begin=0,
    end=10,
    start_factor=0.1,
    end_factor=0.0,
    convert_to_iter_based=True,
)

default_hooks = dict(
    input_check=dict(type='m2at_mm.InputCheckHook', needs_checkpoint=True)
)
