"""A run from end to end: config, recipe, training, attack, masks, evaluation.

Each `# %%` begins a cell for editors that know them. As a script it takes less
than a minute on a CPU. A folder on the command line takes what it writes.
"""

# %% A stock config of mmpretrain
import sys

import torch
from mmengine.hub import get_config
from mmengine.runner import Runner

from m2at_mm.attacks import pgd
from m2at_mm.recipes import apply_recipe
from m2at_mm.visualization import MaskKinds, draw_mask_kinds

WORK_DIR = sys.argv[1] if len(sys.argv) > 1 else 'work_dirs/example'
cfg = get_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')

# %% The recipe makes it adversarial; white strokes bear a large radius
cfg = apply_recipe(
    cfg,
    'm2at',
    threat_model=dict(eps='32/255'),
    train_attack=dict(steps=2, step_size='16/255'),
    method=dict(scale=1.0, consistency=0.0),
    eval_attacks=dict(pgd10=dict(step_size='8/255')),
)

# %% The embedded digits, a narrow network and two epochs, to see it work
for part, split in (('train', 'train'), ('val', 'val'), ('test', 'test')):
    loader = cfg[f'{part}_dataloader']
    loader.update(batch_size=32, num_workers=0, persistent_workers=False)
    loader.dataset = dict(
        type='m2at_mm.Digits', split=split, pipeline=[dict(type='PackInputs')]
    )
cfg.merge_from_dict(
    {
        'work_dir': WORK_DIR,
        'model.classifier.backbone.base_channels': 8,
        'model.classifier.backbone.stem_channels': 8,
        'model.classifier.backbone.zero_init_residual': False,
        'model.classifier.head.in_channels': 64,
        'optim_wrapper.optimizer.lr': 0.05,
        'train_cfg.max_epochs': 2,
        'val_dataloader.dataset.indices': 50,
        'test_cfg': dict(
            type='m2at_mm.RobustnessTestLoop',
            attacks=['fgsm', 'pgd20', 'cw20'],
            num_samples=100,
        ),
        'randomness.seed': 0,
    }
)

# %% Train
runner = Runner.from_cfg(cfg)
runner.train()
model = runner.model.eval()

# %% Attack: images in [0, 1] go in, images in the ball around them come out
batch = next(iter(runner.val_dataloader))
batch = model.data_preprocessor(batch, training=False)
images = batch['inputs']
labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
adversarial = pgd(model, images, labels, model.threat_model, steps=10)
for name, seen in (('clean', images), ('adversarial', adversarial)):
    with torch.no_grad():
        correct = (model(seen).argmax(1) == labels).float().mean()
    print(f'{name}: {100 * correct:.0f} % correct')
print(f'largest change: {255 * (adversarial - images).abs().max():.1f}/255')

# %% Masks of each kind, and what they keep of the perturbation
kinds = MaskKinds.of(model, images[:3], labels[:3])
draw_mask_kinds(kinds).savefig(f'{WORK_DIR}/masks.png')

# %% Evaluate: the table, and results.json in the work dir
runner.test()
