# Fast adversarial training, FGSM-RS (arXiv 2001.03994).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(
    # A step of 1.25 radii, 10/255 at 8/255, from a random start.
    train_attack=dict(
        _delete_=True, type='m2at_mm.FGSM', random_start=True, step=1.25
    ),
    method=dict(type='m2at_mm.PGDAT'),
)
