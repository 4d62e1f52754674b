_base_ = './m2at_resnet18_cifar10.py'

# arXiv 1906.06784
model = dict(method=dict(_delete_=True, type='m2at_mm.IAT'))
