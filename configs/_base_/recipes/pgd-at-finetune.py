# PGD-AT for a few epochs, from a trained checkpoint (load_from).
_base_ = ['pgd-at.py', '../schedules/finetune_10e.py']
