# M2AT's config with the methods of trade_off_variants.py, for the plan
# trade_off_parts.py; this folder must be in PYTHONPATH.
_base_ = '../../configs/m2at_resnet18_cifar10.py'

custom_imports = dict(imports=['trade_off_variants'])
