# Masking and Mixing Adversarial Training (arXiv 2302.08066).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(
    method=dict(
        type='m2at_mm.M2AT',
        # Between the clean accuracy of scale 1 and the robust one of scale 2:
        # docs/results/narrow_resnet18_12e.md.
        scale=1.5,
        perturbed_label=0.7,
    )
)
