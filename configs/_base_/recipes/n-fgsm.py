# N-FGSM (arXiv 2202.01181).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(
    # Noise of 2 radii and a step of one, the authors' defaults.
    train_attack=dict(
        _delete_=True, type='m2at_mm.NFGSM', noise=2.0, step=1.0
    ),
    method=dict(type='m2at_mm.PGDAT'),
)
