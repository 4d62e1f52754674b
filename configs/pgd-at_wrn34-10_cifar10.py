_base_ = './m2at_wrn34-10_cifar10.py'

model = dict(method=dict(_delete_=True, type='m2at_mm.PGDAT'))
