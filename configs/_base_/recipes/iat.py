# Interpolated adversarial training (arXiv 1906.06784).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(method=dict(type='m2at_mm.IAT'))
