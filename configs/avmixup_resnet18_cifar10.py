_base_ = './m2at_resnet18_cifar10.py'

# gamma 2 and a vertex label of 0.1: the authors' for CIFAR-10
# (arXiv 2003.02484).
model = dict(
    method=dict(
        _delete_=True,
        type='m2at_mm.AVmixup',
        gamma=2.0,
        clean_label=1.0,
        vertex_label=0.1,
    )
)
