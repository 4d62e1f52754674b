# The threat model and attacks of most work on CIFAR-10 (arXiv 1706.06083).
model = dict(
    type='m2at_mm.AdversarialClassifier',
    threat_model=dict(norm='linf', eps='8/255'),
    train_attack=dict(type='m2at_mm.PGD', steps=10, step_size='2/255'),
    eval_attacks=dict(
        pgd10=dict(type='m2at_mm.PGD', steps=10, step_size='2/255')
    ),
)
