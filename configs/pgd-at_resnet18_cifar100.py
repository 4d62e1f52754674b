_base_ = './m2at_resnet18_cifar100.py'

model = dict(method=dict(_delete_=True, type='m2at_mm.PGDAT'))
