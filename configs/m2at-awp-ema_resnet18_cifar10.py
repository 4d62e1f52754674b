_base_ = './m2at_resnet18_cifar10.py'

# gamma 0.01: the authors' for PGD-AT (arXiv 2004.05884).
optim_wrapper = dict(type='m2at_mm.AWPOptimWrapper', gamma=0.01)
