# Masking and Mixing Adversarial Training (arXiv 2302.08066).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(
    method=dict(
        type='m2at_mm.M2AT',
        # Validation images chose it among 1, 1.5 and 2, where training
        # overfits: docs/results/trade_off.md. Less scale gives more clean
        # accuracy and less robustness.
        scale=2.0,
        perturbed_label=0.8,
    )
)
