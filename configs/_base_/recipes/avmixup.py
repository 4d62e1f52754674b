# AVmixup (arXiv 2003.02484).
_base_ = '../attacks/linf_8-255_pgd10.py'

# gamma 2 and a vertex label of 0.1: the authors' for CIFAR-10.
model = dict(
    method=dict(
        type='m2at_mm.AVmixup', gamma=2.0, clean_label=1.0, vertex_label=0.1
    )
)
