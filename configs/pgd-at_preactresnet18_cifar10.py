_base_ = './m2at_preactresnet18_cifar10.py'

model = dict(method=dict(_delete_=True, type='m2at_mm.PGDAT'))
