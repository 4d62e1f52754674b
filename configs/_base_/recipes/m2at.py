# Masking and Mixing Adversarial Training (arXiv 2302.08066).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(
    method=dict(
        type='m2at_mm.M2AT',
        # Validation images chose both, where training overfits:
        # docs/results/trade_off.md. Less scale gives more clean accuracy and
        # less robustness; the consistency, TRADES' loss, costs a further pass.
        scale=2.0,
        consistency=6.0,
    )
)
