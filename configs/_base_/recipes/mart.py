# MART (Wang et al., ICLR 2020).
_base_ = '../attacks/linf_8-255_pgd10.py'

# beta 5: the authors' lambda for CIFAR-10.
model = dict(method=dict(type='m2at_mm.MART', beta=5.0))
