"""The package outside of its repository, as the documentation runs it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from email import message_from_string
from itertools import product
from pathlib import Path
from typing import Any

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from modelindex.load_model_index import load
from tools_support import ROOT, clean_env

from config_coverage.shrink import forget_checkpoints

pytestmark = pytest.mark.slow
DOCUMENT = ROOT / 'docs' / 'your_config.md'
STOCK_TRAIN = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'train.py'
TOOL = 'm2at_mm/.mim/tools/train.py'
Train = Callable[..., str]
PARTS = ('train', 'val', 'test')
# A step on a few images in this process alone.
FEW = ('num_workers=0', 'persistent_workers=False', 'batch_size=4')
SMALL = [
    'train_cfg.max_epochs=1',
    'model.train_attack.steps=1',
    'model.eval_attacks.pgd10.steps=1',
    *(f'{part}_dataloader.{one}' for part in PARTS for one in FEW),
    'train_dataloader.dataset.indices=4',
    'val_dataloader.dataset.indices=4',
]


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a wheel installs it, and nothing else."""
    folder = tmp_path_factory.mktemp('installed')
    source, target = folder / 'source', folder / 'target'
    others = '.venv .git .gpu work_dirs data *.egg-info build'.split()
    ignored = shutil.ignore_patterns(*others)
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--quiet']
    subprocess.run([*pip, '--target', target, source], check=True)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with the configs of the documentation."""
    block = r'`(my_\w+\.py)`[^\n]*\n\n```python\n(.*?)```'
    blocks = re.findall(block, DOCUMENT.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ['my_resnet50.py', 'my_vit.py']
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
def train(installed: Path, folder: Path) -> Train:
    """Function that trains outside of the repository; what was printed."""

    def run(*words: Any, options: Iterable[str] = ()) -> str:
        env = dict(PYTHONPATH=str(installed), PYTHONSAFEPATH='1')
        words = (*words, '--cfg-options', *SMALL, *options)
        command = [sys.executable, *map(str, words)]
        both: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        both.update(cwd=folder, env=clean_env() | env)
        done = subprocess.run(command, **both, text=True)
        assert done.returncode == 0, done.stdout[-4000:]
        assert 'robust/worst' in done.stdout
        return done.stdout

    return run


def image_folders(root: Path, classes: int, cifar10: Path) -> None:
    """``{train,val}/<class>/`` with a real image each."""
    images = sorted((cifar10 / 'train').glob('*/0*'))
    images = images[:: max(1, len(images) // 100)]
    for part, number in product(('train', 'val'), range(classes)):
        target = root / part / f'n{number:08d}'
        target.mkdir(parents=True)
        image = images[number % len(images)]
        shutil.copy(image, target / f'0{image.suffix}')


def test_the_page_of_a_package_index(installed: Path) -> None:
    (path,) = installed.glob('m2at_mm-*.dist-info/METADATA')
    page = message_from_string(path.read_text('utf-8'))
    text = page.get_payload()
    assert '## Citations' in text and '\n\n*Four test images' not in text
    targets = re.findall(r'\]\(([^)]+)\)', text)
    assert targets
    assert all(one.startswith(('https://', '#')) for one in targets)
    urls = dict(one.split(', ') for one in page.get_all('Project-URL', []))
    assert urls['Paper of M2AT'] == 'https://arxiv.org/abs/2302.08066'
    known = page.get_all('Classifier', [])
    assert 'Typing :: Typed' in known
    assert page['Requires-Python'] == '>=3.10'


def test_the_model_index_has_what_it_names(installed: Path) -> None:
    mim = installed / 'm2at_mm' / '.mim'
    index = load(str(mim / 'model-index.yml'))
    index.build_models_with_collections()
    assert len(index.models) == len(list((mim / 'configs').glob('*.py')))
    assert all((mim / model.config).is_file() for model in index.models)


def test_one_flag_on_a_stock_config(
    train: Train, installed: Path, folder: Path, cifar10_root: Path
) -> None:
    (folder / 'data').mkdir()
    (folder / 'data' / 'cifar10').symlink_to(cifar10_root)
    config = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    sizes = [f'{part}_dataloader.dataset.val_size=20' for part in PARTS]
    train(installed / TOOL, config, '--recipe', 'm2at', options=sizes)
    work_dir = folder / 'work_dirs' / 'resnet18_8xb16_cifar10_m2at'
    assert list(work_dir.glob('best_robust_pgd10_epoch_1.pth'))
    (log,) = work_dir.glob('*/*.log')
    assert 'commit: none, the package is installed' in log.read_text('utf-8')


@pytest.mark.parametrize('by_mim', [False, True])
def test_own_config_with_the_tools_of_openmmlab(
    by_mim: bool, train: Train, folder: Path, cifar10_root: Path
) -> None:
    if by_mim:
        pytest.importorskip('mim', reason='openmim is not installed')
    image_folders(folder / 'data' / 'imagenet', 1000, cifar10_root)
    if by_mim:
        words = ['-m', 'mim', 'train', 'm2at_mm', 'my_resnet50.py']
        output = train(*words, '--work-dir', 'work_dirs/my_resnet50')
        assert 'Training finished successfully' in output
    else:
        train(STOCK_TRAIN, 'my_resnet50.py')
    assert list((folder / 'work_dirs' / 'my_resnet50').glob('best_*.pth'))


def test_fine_tuning_a_vision_transformer(
    train: Train, installed: Path, folder: Path, cifar10_root: Path
) -> None:
    image_folders(folder / 'data' / 'flowers', 5, cifar10_root)
    stock = Config.fromfile(folder / 'my_vit.py')
    forget_checkpoints(stock)
    stock.model.data_preprocessor = stock.data_preprocessor
    before = MODELS.build(stock.model).state_dict()
    checkpoint = dict(meta={}, state_dict=before)
    torch.save(checkpoint, folder / 'vit-base-p16.pth')
    options = ['load_from=vit-base-p16.pth', 'optim_wrapper.optimizer.lr=1e-3']
    options += ['model.classifier.backbone.frozen_stages=12']
    words = ['my_vit.py', '--recipe', 'm2at-finetune']
    train(installed / TOOL, *words, options=options)
    (best,) = (folder / 'work_dirs/my_vit_m2at-finetune').glob('best_*1.pth')
    after = torch.load(best, weights_only=False)['state_dict']
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved and all(key.startswith('head.') for key in moved)
