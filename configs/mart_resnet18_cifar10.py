_base_ = './m2at_resnet18_cifar10.py'

# beta 5: the authors' lambda for CIFAR-10 (Wang et al., ICLR 2020).
model = dict(method=dict(_delete_=True, type='m2at_mm.MART', beta=5.0))
