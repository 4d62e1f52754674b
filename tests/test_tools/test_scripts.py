"""Training, evaluation, pictures and conversion as a user starts them."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pytest
import tools_support as tools
import torch
from PIL import Image
from report_support import results_of
from tiny import build_stock, classifier_cfg
from tools_support import DIGITS, TINY, cli_options, run_tool


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work dir after three epochs on digits, and what was printed."""
    work_dir = tmp_path_factory.mktemp('digits')
    options = cli_options(TINY, {'train_cfg.max_epochs': 3})
    output = run_tool('train', DIGITS, '--work-dir', work_dir, *options)
    return work_dir, output


def test_loss_falls_and_the_best_checkpoint_is_kept(trained: Any) -> None:
    work_dir, output = trained
    losses = [float(x) for x in re.findall(r' loss: ([\d.]+)', output)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert 'kept_share:' in output and 'adversarial_accuracy:' in output
    reported = r'robust/clean: ([\d.]+)  robust/pgd10: ([\d.]+)'
    clean, robust = zip(*re.findall(reported, output))
    assert len(clean) == 3
    # Guessing gives 10, and on 50 images hardly ever above 23.
    assert float(clean[-1]) > 25
    first_best = robust.index(max(robust, key=float)) + 1
    (best,) = work_dir.glob('best_*_[0-9].pth')
    assert best.name == f'best_robust_pgd10_epoch_{first_best}.pth'


def test_results_lie_with_the_training(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    work_dir, _ = trained
    (dumped,) = work_dir.glob('*.py')
    before = dumped.read_text()
    # As the config of a training that was resumed.
    config = tmp_path / 'again.py'
    config.write_text(f'_base_ = [{str(DIGITS)!r}]\nresume = True\n')
    words = [work_dir / 'epoch_3.pth', '--num-samples', 10]
    words += ['--attacks', 'clean', 'fgsm', *cli_options(TINY)]
    printed = run_tool('test', config, *words)
    assert 'resumed' not in printed
    results = json.loads((work_dir / 'results.json').read_text())
    assert results['settings']['classes'] == [*'0123456789']
    assert dumped.read_text() == before


def test_resume_goes_on(trained: tuple[Path, str]) -> None:
    words = [DIGITS, '--work-dir', trained[0], '--resume']
    words += cli_options(TINY, {'train_cfg.max_epochs': 4})
    output = run_tool('train', *words)
    assert 'resumed epoch: 3' in output
    assert 'Epoch(train) [4]' in output and 'Epoch(train) [3]' not in output
    assert (trained[0] / 'epoch_4.pth').is_file()


STOCK = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    """A stock mmpretrain checkpoint with random weights."""
    torch.manual_seed(0)
    model = build_stock(classifier_cfg(base_channels=8, stem_channels=8))
    path = tmp_path / 'stock.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def _words(checkpoint: Path, *words: object, cifar10: object = None) -> list:
    """Config, checkpoint and options of a narrow network."""
    options: dict[str, Any] = {'test_dataloader.num_workers': 0}
    if cifar10:
        options['test_dataloader.dataset.data_root'] = cifar10
    options = cli_options(tools.NARROW, options)
    return [STOCK if cifar10 else DIGITS, checkpoint, *words, *options]


def _evaluate(work_dir: Path, words: list, processes: int = 0) -> Any:
    launcher = ['--launcher', 'pytorch'] if processes else []
    words = ['--work-dir', work_dir, *launcher, *words]
    run_tool('test', *words, processes=processes)
    return json.loads((work_dir / 'results.json').read_text())


def test_results_and_two_processes(checkpoint: Path, tmp_path: Path) -> None:
    words = ['--num-samples', 31, '--batch-size', 8]
    words += ['--attacks', 'clean', 'fgsm', 'pgd20', 'apgd-ce']
    words = _words(checkpoint, *words)
    one = _evaluate(tmp_path / 'one', words)
    assert list(one)[:4] == ['clean', 'attacks', 'worst_case', 'num_samples']
    assert list(one['attacks']) == ['fgsm', 'pgd20', 'apgd-ce']
    assert one['num_samples'] == 31
    assert one['threat_model'] == {'norm': 'linf', 'eps': 32 / 255}
    assert one['worst_case'] <= min(one['attacks'].values()) <= one['clean']
    assert _evaluate(tmp_path / 'two', words, processes=2) == one
    samples = (tmp_path / n / 'results.samples.npz' for n in ('one', 'two'))
    a, b = (dict(np.load(path)) for path in samples)
    np.testing.assert_equal(a, b)


def test_killed_evaluation_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    # A tenth of the images is right by chance, and withstands this radius.
    words = ['--attacks', 'pgd20', '--eps', '0.001/255']
    words = _words(checkpoint, *words, '--num-samples', 120, '--batch-size', 4)
    work_dir = tmp_path / 'killed'
    command = [sys.executable, tools.ROOT / 'tools' / 'test.py', *words]
    command = [*map(str, command), '--work-dir', str(work_dir)]
    quiet = dict(env=tools.clean_env(), stdout=subprocess.DEVNULL)
    process = subprocess.Popen(command, **quiet)
    deadline = time.monotonic() + 300
    done: list[Path] = []
    while not done and time.monotonic() < deadline:
        done = sorted(work_dir.glob('evaluation/*/linf*/*/batch_*.npz'))
        assert process.poll() is None, 'it ended before it could be killed'
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert done and not (work_dir / 'results.json').exists()
    written = {path: path.stat().st_mtime_ns for path in done}

    resumed = _evaluate(work_dir, words)
    assert resumed == _evaluate(tmp_path / 'whole', words)
    for path, when in written.items():  # not attacked again
        assert path.stat().st_mtime_ns == when


def test_stock_config_sweep_and_transfer(
    checkpoint: Path, cifar10_root: Path, tmp_path: Path
) -> None:
    surrogate = tmp_path / 'surrogate.py'
    narrow = 'backbone=dict(base_channels=8, stem_channels=8), '
    text = f'_base_ = [{str(tools.MAIN)!r}]\nmodel = dict(classifier=dict('
    text += f'{narrow}head=dict(in_channels=64)))'
    surrogate.write_text(text)
    options = ['--attacks', 'fgsm', 'transfer', '--eps', '4/255', '8/255']
    options += ['--transfer', surrogate, checkpoint, '--num-samples', 20]
    words = _words(checkpoint, *options, cifar10=cifar10_root)
    results = _evaluate(tmp_path / 'out', words)
    assert results['threat_model']['eps'] == 8 / 255
    radii = [one['threat_model']['eps'] for one in results['sweep']]
    assert radii == [4 / 255, 8 / 255]
    assert set(results['attacks']) == {'fgsm', 'transfer'}
    with np.load(tmp_path / 'out' / 'results.samples.npz') as samples:
        assert len(samples['transfer@4/255']) == 20


def test_other_norm_and_short_screen(checkpoint: Path, tmp_path: Path) -> None:
    options = ['--norm', 'l2', '--eps', '128/255', '--num-samples', 10]
    words = _words(checkpoint, *options, '--attacks', 'pgd20')
    printed = run_tool('test', '--work-dir', tmp_path, *words)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['threat_model'] == {'norm': 'l2', 'eps': 128 / 255}
    assert len(printed.splitlines()) <= 40
    (log,) = tmp_path.rglob('*.log')
    assert 'Config:' in log.read_text() and 'Config:' not in printed


def test_writes_a_picture_with_a_row_per_image(tmp_path: Path) -> None:
    for num in (1, 3):
        out = tmp_path / f'{num}.png'
        words = [DIGITS, '--out', out, '--num-images', num]
        printed = run_tool('visualize', *words, *cli_options(TINY))
        assert f'picture: {out}' in printed
    with Image.open(tmp_path / '1.png') as first, Image.open(out) as second:
        assert len(set(second.convert('L').tobytes())) > 50
        assert first.width == second.width and first.height < second.height


KINDS = [
    ('steps', 'steps.gif', TINY['model.train_attack.steps'] + 1),
    ('steps', 'steps.png', 1),
    ('masks', 'masks.jpg', 1),
    ('options', 'options.png', 1),
]


@pytest.mark.parametrize(('show', 'name', 'frames'), KINDS)
def test_each_kind(show: str, name: str, frames: int, tmp_path: Path) -> None:
    out = tmp_path / 'new' / name
    words = [DIGITS, '--out', out, '--show', show, '--num-images', 2]
    run_tool('visualize', *words, *cli_options(TINY))
    with Image.open(out) as picture:
        assert getattr(picture, 'n_frames', 1) == frames
        assert picture.width >= 450 and picture.height >= 400


def test_import_test_and_export(tmp_path: Path, cifar10_root: Path) -> None:
    source = Path(pyautoattack.__file__).parent / 'examples' / 'model_test.pt'
    out = tmp_path / 'undefended.pth'
    run_tool('convert_checkpoint', 'import', source, out)
    config = out.with_suffix('.py')
    words = [config, out, '--num-samples', 20, '--attacks', 'fgsm']
    words += ['--work-dir', tmp_path / 'work', '--cfg-options']
    words += [f'test_dataloader.dataset.data_root={cifar10_root}']
    run_tool('test', *words, 'test_dataloader.num_workers=0')
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['clean'] >= 75  # 88 % of 200 images
    plain = tmp_path / 'plain.pt'
    words = ['export', config, out, plain, '--format', 'state-dict']
    run_tool('convert_checkpoint', *words)
    weights = torch.load(plain, weights_only=True)
    assert weights['std'].flatten().tolist() == [1, 1, 1]


def test_claim(tmp_path: Path) -> None:
    results = results_of(dict(autoattack=45.0))
    path, out = tmp_path / 'results.json', tmp_path / 'claim.json'
    path.write_text(json.dumps(results))
    run_tool('convert_checkpoint', 'claim', path, out, '--name', 'M2AT')
    claim = json.loads(out.read_text())
    assert claim['autoattack_acc'] == '45.00' and claim['name'] == 'M2AT'
