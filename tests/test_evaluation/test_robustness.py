"""The evaluation on real models and images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import MASKS, Masked, samples_of
from quick_autoattack import quick_autoattack
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import ResultStore, RobustnessEvaluation, find_alarms
from m2at_mm.evaluation.results import make_results


def _names(evaluated: tuple) -> set[str]:
    return {alarm.name for alarm in find_alarms(*evaluated)}


# That each mask raises its alarm is shown by the tests of the probes.
@pytest.mark.parametrize('how', ['integer input', 'broken gradient'])
def test_masked_gradients(robust_model: Any, evaluate: Any, how: str) -> None:
    model = Masked(robust_model, how)
    assert MASKS[how] in _names(evaluate(model, ['fgsm', 'pgd20'], 16))


def test_sound_models_raise_none(
    robust_model: nn.Module, undefended_model: nn.Module, evaluate: Callable
) -> None:
    attacks = ['fgsm', 'pgd20', 'cw20']
    robust = evaluate(robust_model, attacks, 60, eps=['4/255', '8/255'])
    assert _names(robust) == set()
    settings = dict(eps=['0.5/255'], folder='weak')
    weak = evaluate(undefended_model, attacks, 16, **settings)
    assert _names(weak) == set()
    [outcome] = weak[0]
    left = outcome.worst()
    assert 0 < left.sum() < outcome.correct('clean').sum()
    # Attacks only take images away, one by one.
    clean_wrong = ~outcome.correct('clean')
    for name in outcome.attacks:
        assert not (left & ~outcome.correct(name)).any()
        assert not outcome.correct(name)[clean_wrong].any()


def test_chain_gives_each_part_what_is_left(
    robust_model: nn.Module, evaluate: Callable, monkeypatch: Any
) -> None:
    parts = dict(standard=('apgd-ce', 'apgd-dlr'), rand=('apgd-ce',))
    monkeypatch.setattr('m2at_mm.attacks.autoattack._VERSIONS', parts)
    with quick_autoattack():
        [outcome] = evaluate(robust_model, ['apgd-ce', 'autoattack'], 20)[0]
    alone, whole = (outcome.predictions[n] for n in outcome.attacks)
    parts = outcome.parts['autoattack']
    np.testing.assert_array_equal(parts['apgd-ce'], alone)
    np.testing.assert_array_equal(parts['apgd-dlr'], whole)
    left = [outcome.correct(name) for name in outcome.attacks]
    assert not (left[1] & ~left[0]).any()


class _Counting(nn.Module):
    """Counts how many images were given with a gradient asked for."""

    def __init__(self, model: nn.Module, die_after: float = np.inf) -> None:
        super().__init__()
        self.model = model
        self.attacked = 0
        self.die_after = die_after

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.attacked += len(images)
        if self.attacked > self.die_after:
            raise KeyboardInterrupt
        return self.model(images)


def test_goes_on_when_interrupted(robust_model: Any, evaluate: Any) -> None:
    def run(folder: str, die_after: float = np.inf) -> tuple[int, dict]:
        model, found = _Counting(robust_model, die_after), {}
        try:
            settings = dict(batch_size=8, folder=folder)
            [outcome] = evaluate(model, ['pgd20', 'cw20'], 24, **settings)[0]
            found = {n: p.tolist() for n, p in outcome.predictions.items()}
        except KeyboardInterrupt:
            assert die_after < np.inf
        return model.attacked, found

    whole, expected = run('a')
    first, _ = run('b', die_after=whole // 2)
    second, found = run('b')
    assert found == expected
    # Only the batch at work was attacked twice: 8 images, 20 steps at most.
    assert 0 <= first + second - whole <= 8 * 21
    assert run('b') == (0, expected)
    # Another attack uses what is there: one gradient of each image at most,
    # and those of the second opinion.
    counting = _Counting(robust_model)
    settings = dict(batch_size=8, folder='b')
    [outcome] = evaluate(counting, ['fgsm', 'pgd20'], 24, **settings)[0]
    asked = outcome.correct('pgd20').sum()
    assert 0 < counting.attacked <= 2 * 24 + 5 * asked


def test_adversarial_images_are_kept(
    robust_model: nn.Module, evaluate: Any, cifar10_images: Any, tmp_path: Path
) -> None:
    folder = tmp_path / 'adversarial'
    settings: dict[str, Any] = dict(num=20, batch_size=8)
    evaluate(robust_model, ['fgsm'], **settings)
    # Asked for later, they are made then.
    settings['images_folder'] = folder
    [outcome] = evaluate(robust_model, ['fgsm'], **settings)[0]
    parts = [np.load(file) for file in sorted(folder.rglob('fgsm*/*.npz'))]
    adversarial = np.concatenate([part['adversarial'] for part in parts])
    index = np.concatenate([part['index'] for part in parts])
    clean = np.flatnonzero(outcome.correct('clean'))
    np.testing.assert_array_equal(index, clean)
    kept = torch.from_numpy(adversarial)
    ball = ThreatModel().ball(cifar10_images(20)[0][clean])
    assert bool(ball.contains(kept).all())
    with torch.no_grad():
        predicted = robust_model(kept).argmax(1)
    assert predicted.tolist() == outcome.predictions['fgsm'][clean].tolist()
    # Those of the second opinion as well.
    parts = [np.load(f) for f in folder.rglob('second-opinion*/*.npz')]
    asked = np.concatenate([part['index'] for part in parts])
    assert set(asked) == set(np.flatnonzero(outcome.correct('fgsm')))


class Brightest(nn.Module):
    """The brightest channel is the class, not a number on white images.

    It drops the batch of one image, as mmpretrain's LeNet-5 does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(92.0))

    def forward(self, images: Tensor) -> Tensor:
        share = torch.exp(self.scale * images.mean((2, 3)).squeeze())
        return 20 * share / share.sum(-1, keepdim=True)


def _evaluation(
    folder: Path, images: Tensor, labels: Tensor, batch_size: int = 4
) -> RobustnessEvaluation:
    samples, store = samples_of(images, labels), ResultStore(folder, {})
    return RobustnessEvaluation(Brightest(), samples, store, batch_size)


def _channels(num: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % 3
    images = torch.rand(num, 3, 4, 4, generator=draw) * 0.1 + 0.3
    images[torch.arange(num), labels] += 0.25
    return images, labels


def test_wrong_input(tmp_path: Path) -> None:
    images, labels = _channels(4)
    with pytest.raises(ValueError, match='batch_size=0'):
        _evaluation(tmp_path, images, labels, batch_size=0)
    evaluation = _evaluation(tmp_path, images, labels + 90)
    with pytest.raises(ValueError, match=r'labels 90 to 92.* classes 0 to 2'):
        evaluation.run(['fgsm'], [ThreatModel()])


def test_logits_that_are_no_numbers_are_never_right(tmp_path: Path) -> None:
    images, labels = _channels(31)
    images[::10] = 1.0  # of every class
    # Of the 27 images that are attacked, the last one is alone in its batch.
    evaluation = _evaluation(tmp_path, images, labels, batch_size=13)
    attacks = ['pgd20', 'cw20', 'apgd-ce']
    outcomes, probes = evaluation.run(attacks, [ThreatModel('linf', 0.01)])
    finite = torch.arange(31) % 10 != 0
    for name in ('clean', *attacks):
        assert outcomes[0].correct(name).tolist() == finite.tolist()
    results = make_results(outcomes, probes)
    notes = [note for note in results['notes'] if 'not finite' in note]
    assert len(notes) == 4 and notes[0].startswith('4 images have logits')
    json.dumps(results, allow_nan=False)


@pytest.mark.parametrize('what', ['labels', 'pixel'])
def test_other_images_are_evaluated_anew(what: str, tmp_path: Path) -> None:
    def run(folder: str, *given: Tensor) -> tuple[Path, list[bool]]:
        evaluation = _evaluation(tmp_path / folder, *given)
        [outcome] = evaluation.run(['pgd20'], [ThreatModel('linf', 0.1)])[0]
        return evaluation.store.folder, outcome.correct('pgd20').tolist()

    images, labels = _channels(9)
    first = run('a', images, labels)
    assert run('a', images, labels) == first
    if what == 'labels':
        labels = (labels + 1) % 3
    else:
        images[3, 0, 0, 0] += 1 / 255
    folder, right = run('a', images, labels)
    assert folder != first[0]
    assert right == run('b', images, labels)[1]


class _Restless(list):
    """Images that are noisy when they are read for the second time."""

    def __getitem__(self, index: Any) -> Any:
        image, label = super().__getitem__(index)
        noise = np.random.default_rng().random(tuple(image.shape))
        return image + 1e-3 * torch.from_numpy(noise).float(), label


def test_images_that_change_end_an_evaluation(tmp_path: Path) -> None:
    evaluation = _evaluation(tmp_path, *_channels(9))
    evaluation.samples.dataset = _Restless(evaluation.samples.dataset)
    with pytest.raises(RuntimeError, match='image 0 of the dataset is not'):
        evaluation.run(['fgsm'], [ThreatModel()])
