# Masking and Mixing Adversarial Training (arXiv 2302.08066).
_base_ = '../attacks/linf_8-255_pgd10.py'

model = dict(method=dict(type='m2at_mm.M2AT'))
