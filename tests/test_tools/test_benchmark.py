"""The benchmark: as a user starts it, its rivals, and its figures."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digits_runner import build_digits_runner
from rich.console import Console
from tiny import build_adversarial, labels_of, raw_batch
from tools_support import DIGITS, TINY, cli_options, run_tool
from torch import Tensor

from benchmarking import rivals
from benchmarking.rivals import INSTALLED, OURS, RIVALS, Limit
from benchmarking.summary import count_flops, peak_flops, summarise, to_table
from benchmarking.timing import time_validation
from m2at_mm.attacks import FGSM, pgd
from m2at_mm.methods import M2AT, PGDAT, TRADES

LOADER = {'train_dataloader.batch_size': 4, 'train_dataloader.num_workers': 0}


def benchmark(folder: Path, *words: str, processes: int = 0) -> Any:
    """What it prints, and the figures."""
    out = folder / 'figures.json'
    words = ('--rounds', '1', '--block', '1', '--out', str(out), *words)
    words = (*words, *cli_options(TINY, LOADER))
    printed = run_tool('benchmark', DIGITS, *words, processes=processes)
    return printed, json.loads(out.read_text())


def test_prints_and_writes_figures(tmp_path: Path) -> None:
    output, results = benchmark(tmp_path, '--methods', 'pgd-at')
    names = ['m2at_mm', 'm2at_mm pgd-at', *INSTALLED]
    assert list(results['contestants']) == names
    assert all(name in output for name in names)
    assert results['flops_per_iteration'] > 0
    assert results['settings']['train_attack']['steps'] == 2
    parts = results['parts']
    assert parts['attack'] > parts['mask and mix'] > 0
    # The training is only timed: nothing of it stays.
    assert [path.name for path in tmp_path.iterdir()] == ['figures.json']


@pytest.mark.slow
def test_two_processes_take_twice_the_images(tmp_path: Path) -> None:
    words = ('--against', 'limit', '--launcher', 'pytorch')
    output, results = benchmark(tmp_path, *words, processes=2)
    ours = results['contestants']['m2at_mm']
    assert results['batch_size'] == 8 and results['settings']['processes'] == 2
    assert ours['images_per_second'] == pytest.approx(8 / ours['seconds'])
    assert results['all_reduce']['seconds'] > 0
    assert 'exchange alone' in output and output.count('of 8') == 1


STEPS = 3
PGD = dict(type='m2at_mm.PGD', steps=STEPS, step_size='3/255')
PGD2 = dict(type='m2at_mm.PGD', steps=2)


@pytest.fixture
def problem() -> tuple[Any, Tensor, Tensor]:
    """A model, images and labels."""
    method = dict(type='m2at_mm.PGDAT')
    model = build_adversarial(method=method, train_attack=PGD)
    batch = model.data_preprocessor(raw_batch(num=4))
    return model, batch['inputs'], labels_of(batch['data_samples'])


@pytest.mark.parametrize('name', sorted({*rivals.INSTALLED} - {'limit'}))
def test_rivals_attack_as_pgd_does(name: str, problem: Any) -> None:
    model, images, _ = problem
    rival = RIVALS[name](*problem)
    # The plain loop leaves the network in train mode, torchattacks doesn't.
    bn_mode = 'eval' if name == 'torchattacks' else 'train'
    model.train(bn_mode == 'train')
    torch.manual_seed(1)
    found = rival.attack()
    torch.manual_seed(1)
    settings = dict(steps=STEPS, step_size='3/255', bn_mode=bn_mode)
    expected = pgd(*problem, model.threat_model, **settings)
    same = ((found - expected).abs() < 1e-6).float().mean()
    assert same > 0.98  # but for signs of gradients near zero
    assert (found - images).abs().max() <= 8 / 255 + 1e-6


@pytest.mark.parametrize('name', rivals.INSTALLED)
def test_iteration_of_a_network_of_its_own(name: str, problem: Any) -> None:
    model, images, labels = problem
    before = [p.detach().clone() for p in model.parameters()]
    rival = RIVALS[name](*problem)
    seen: list[tuple[Tensor, bool]] = []

    def note(module: Any, args: tuple[Tensor], logits: Tensor) -> None:
        seen.append((args[0].detach(), module.training))
        assert logits.requires_grad

    rival.network.register_forward_hook(note)
    rival()
    moved = list(rival.network.parameters())
    assert not all(map(torch.equal, before, moved))
    assert all(p.requires_grad for p in moved)
    assert all(module.training for module in rival.network.modules())
    assert all(map(torch.equal, before, model.parameters()))
    in_attack = name in ('plain', 'script')
    modes = [in_attack] * STEPS + [True] * (3 if name == 'script' else 1)
    assert [training for _, training in seen] == modes
    if name == 'script':
        assert torch.equal(seen[STEPS][0], seen[STEPS + 1][0])
        assert torch.equal(seen[-1][0], images)
    if name == 'limit':
        loss = F.cross_entropy(model.train()(images), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, expected in zip(moved, gradients):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_of_a_runner_and_an_attack(problem: Any, tmp_path: Path) -> None:
    rival = RIVALS['plain'](*problem, FGSM(random_start=True, step=1.25))
    assert (rival.steps, rival.eps) == (1, 8 / 255)
    assert rival.step_size == pytest.approx(1.25 * 8 / 255, rel=1e-12)

    runner = build_digits_runner(tmp_path, 8)
    rival = rivals.rivals_of(['limit'], runner)['limit']
    dataset = runner.train_dataloader.dataset
    labels = [dataset.get_data_info(i)['gt_label'] for i in range(8)]
    assert rival.labels.tolist() == labels and len(rival.images) == 8
    assert 0 <= rival.images.min() and rival.images.max() <= 1

    model: Any = runner.model
    own, attack = model.method, model.train_attack
    switches = rivals.switches_of(['trades', 'pgd-at'], runner)
    assert list(switches) == [OURS, f'{OURS} trades', f'{OURS} pgd-at']
    for name, method in zip([*switches, OURS], (M2AT, TRADES, PGDAT, M2AT)):
        switches[name]()
        assert isinstance(model.method, method)
        assert model.train_attack.steps == attack.steps
        assert model.train_attack.step_size == attack.step_size
    assert model.method is own and model.train_attack is attack


@pytest.mark.parametrize('steps', [1, 4])
def test_flops_are_those_of_the_convolutions(steps: int) -> None:
    model = build_adversarial(train_attack=dict(PGD, steps=steps))
    sizes: list[int] = []

    def note(module: torch.nn.Conv2d, args: tuple, out: torch.Tensor) -> None:
        # 2 operations per weight, output position and image.
        sizes.append(2 * out[:, 0].numel() * module.weight.numel())

    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    limit = Limit(model, images, labels)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    model(images)
    fully_connected = 2 * 2 * model.classifier.head.fc.weight.numel()
    forward = sum(sizes) + fully_connected
    # A gradient of the images costs a forward pass, and one of the weights
    # another; in the full step nobody asks for that of the images.
    assert count_flops(limit) == steps * 2 * forward + 3 * forward - sizes[0]
    if not torch.cuda.is_available():  # a CPU has no peak
        assert peak_flops() is None


def test_both_ways_find_the_same_accuracy() -> None:
    model: Any = build_adversarial(eval_attacks=dict(pgd=PGD2)).eval()
    batches = []
    for seed in range(2):
        batch = model.data_preprocessor(raw_batch(num=8, seed=seed))
        with torch.no_grad():  # half of the images are right when clean
            labels = model(batch['inputs']).argmax(1)
        labels[::2] = (labels[::2] + 1) % 10
        batches.append((batch['inputs'], labels))
    found = time_validation(model, batches, rounds=2)
    assert [*found['accuracy']] == [*found['times']] == ['m2at_mm', 'plain']
    (clean, ours), (plain_clean, plain) = found['accuracy'].values()
    assert clean == plain_clean == 50
    # The starts are drawn anew.
    assert 0 <= ours < 50 and abs(ours - plain) <= 12.5
    for rounds in found['times'].values():
        assert [len(block) for block in rounds] == [1, 1]
        assert min(rounds)[0] > 0
    # Two attacks are refused.
    model = build_adversarial(eval_attacks=dict(one=PGD2, two=PGD2))
    with pytest.raises(ValueError, match=r"eval_attacks=\['one', 'two'\]"):
        time_validation(model, [], 1)


TIMES = dict(ours=[[1.0, 1.2, 1.1], [2.0, 2.2, 2.1]])
TIMES['other'] = [[2.2, 2.2, 9.0], [4.2, 4.2, 4.2]]


def test_ratios_are_of_rounds() -> None:
    results = summarise(TIMES, 10, {'ours': 2**20}, flops=100, peak=1000.0)
    assert results['contestants']['ours'] == dict(
        seconds=pytest.approx(1.6),
        quartiles=pytest.approx([1.125, 2.075]),
        images_per_second=pytest.approx(10 / 1.6),
        peak_memory_bytes=2**20,
        share_of_peak=pytest.approx(100 / 1.6 / 1000),
    )
    # The machine was twice as slow in the second round: both are 2.
    expected = dict(median=pytest.approx(2.0), range=[2.0, 2.0])
    assert results['ratios'] == dict(other=expected)


def test_table_has_a_row_each() -> None:
    for known in ({}, {'ours': 3 * 2**20}):
        text = io.StringIO()
        results = dict(summarise(TIMES, 10, known), batch_size=10)
        Console(file=text, width=120).print(to_table(results))
        shown = text.getvalue()
        assert '2.000 (2.000-2.000)' in shown and '1600' in shown
        assert ('peak MiB' in shown) == (' 3.0 ' in shown) == bool(known)
        assert '% of peak' not in shown
