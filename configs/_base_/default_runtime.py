# mmpretrain's runtime, with the best checkpoint chosen under attack.
_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(
    logger=dict(interval=50),
    # A GPU is not waited for in each iteration.
    runtime_info=dict(type='m2at_mm.RuntimeInfoHook'),
    checkpoint=dict(
        type='m2at_mm.SafeCheckpointHook',
        max_keep_ckpts=1,
        # Chosen on the validation split, never on the test split
        # (arXiv 2002.11569).
        save_best='robust/pgd10',
        rule='greater',
        # At the end, copies of last and best that hold the weights alone.
        published_keys=['meta', 'state_dict'],
    ),
    # Validated and saved are averaged weights, which are more robust:
    # docs/results/trade_off.md.
    ema=dict(type='m2at_mm.AveragedWeightsHook'),
    input_check=dict(type='m2at_mm.InputCheckHook'),
    # An interrupted and resumed run equals the uninterrupted one.
    rng_state=dict(type='m2at_mm.RNGStateHook'),
    # Several processes validate, and save, one network.
    sync_buffers=dict(type='m2at_mm.SyncBuffersHook'),
    # At the end, the best and the last robust accuracy.
    overfitting=dict(type='m2at_mm.RobustOverfittingHook'),
    # A scheduler's SIGTERM ends training with a checkpoint.
    preemption=dict(type='m2at_mm.PreemptionHook'),
)

val_evaluator = dict(type='m2at_mm.RobustAccuracy')
test_evaluator = val_evaluator

# Right on GPUs and, with gloo, on CPUs.
model_wrapper_cfg = dict(type='m2at_mm.AdversarialDistributedDataParallel')
