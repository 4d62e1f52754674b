# TRADES (arXiv 1901.08573).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(
    # The attack raises the divergence from the clean prediction, which has no
    # gradient there: it starts at noise of 0.001 (the authors' code).
    train_attack=dict(loss='kl', noise_std=0.001),
    # beta 6: the authors' 1/lambda for CIFAR-10 (section 5).
    method=dict(type='m2at_mm.TRADES', beta=6.0),
)
