# M2AT for a few epochs, from a trained checkpoint (load_from).
_base_ = ['m2at.py', '../schedules/finetune_10e.py']
