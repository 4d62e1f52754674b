import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from digits_runner import build_digits_runner
from report_support import Page
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.datasets import Digits
from m2at_mm.reporting import Measurement, Report, RunLog, measure, read_run
from m2at_mm.reporting.measurement import loss_surfaces
from m2at_mm.reporting.page import examples, surfaces
from m2at_mm.reporting.run_log import class_names


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    folder = tmp_path_factory.mktemp('report') / 'run'
    build_digits_runner(folder, 40).train()
    return read_run(folder)


@pytest.fixture(scope='module')
def measured(run: RunLog) -> Measurement:
    return measure(run, 12)


def test_the_best_is_attacked(run: RunLog, measured: Measurement) -> None:
    results, outcome = measured.results, measured.outcome
    radii = [one['threat_model']['eps'] * 255 for one in results['sweep']]
    assert radii == pytest.approx([8, 16, 32, 48, 64])
    assert results['threat_model']['eps'] == 32 / 255
    assert outcome.attacks == ['pgd20']
    dataset = Digits(split='test', indices=40)
    positions = [int(k) for k in outcome.positions]
    labels = [dataset[k]['gt_label'] for k in positions]
    assert outcome.labels.tolist() == labels
    assert sorted(np.bincount(labels)) == [1] * 8 + [2] * 2  # 12
    assert not (run.folder / 'evaluation').exists()
    assert len([*run.folder.glob('*/vis_data')]) == 1

    assert len(measured.examples) == 6 and len(measured.surfaces) == 3
    assert len({example.label for example in measured.examples}) == 6
    images = np.stack([dataset[k]['img'] / 255 for k in positions])
    for example in measured.examples:
        distance = np.abs(images - example.clean).max((1, 2, 3))
        (number,) = np.flatnonzero(distance < 1e-6)
        assert example.label == labels[number]
        change = np.abs(example.adversarial - example.clean).max()
        assert 0 < change <= 32 / 255 + 1e-6
        assert example.predicted[0] == outcome.predictions['clean'][number]
    # The middle of a surface is the image itself.
    middle = measured.surfaces[0].loss[10, 10]
    example = measured.examples[0]
    if example.predicted[0] == example.label:
        assert np.exp(-middle) == pytest.approx(example.predicted[1], abs=1e-4)


def test_sections_show_them(run: RunLog, measured: Measurement) -> None:
    report = Report([run], {run.name: measured})
    page = Page(examples(report))
    label = measured.examples[0].label
    assert len(page.all('img')) == 18
    assert page.all('img')[0]['alt'] == f'Clean test image 1, {label}'
    assert f'True class: {label}' in page.text
    assert len(Page(surfaces(report)).all('svg')) == 3
    assert [*examples(Report([run])), *surfaces(Report([run]))] == []


def test_few_images_and_another_network(run: RunLog, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / 'run')
    (config,) = folder.glob('*/vis_data/config.py')
    with config.open('a') as file:
        file.write("test_dataloader['dataset'].update(indices=3)\n")
    copied = read_run(folder)
    assert len(measure(copied, 10**6).outcome.labels) == 3
    assert copied.checkpoint is not None
    torch.save(dict(state_dict={}, meta={}), copied.checkpoint)
    with pytest.raises(ValueError, match='does not fit the model'):
        measure(copied, 2)


def test_class_names_without_data() -> None:
    def of(**dataset: object) -> object:
        return class_names(dict(test_dataloader=dict(dataset=dataset)))

    assert of(type='m2at_mm.CIFAR10', data_root='nowhere')[9] == 'truck'
    assert of(type='CustomDataset') is None and class_names({}) is None
    given = dict(classes=['a', 'b'])
    assert of(type='CustomDataset', metainfo=given) == ['a', 'b']


def test_class_names_of_an_evaluation(report: Report) -> None:
    run, _ = report.runs
    assert report.class_names(run) is None
    found = dict(settings=dict(classes=['caf\u00e9', 'two words']))
    evaluated = replace(run, results=found)
    assert report.class_names(evaluated) == ['caf\u00e9', 'two words']
    measured: Any = {run.name: SimpleNamespace(results=found)}
    names = Report([run], measured).class_names(run)
    assert names == ['caf\u00e9', 'two words']


class Linear(nn.Module):
    """Two classes by one direction of the image; keeps what it saw."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        score = ((images - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_closed_form_along_the_gradient(norm: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 3, 4, 4, generator=generator)
    model, label = Linear(weight), torch.tensor([1])
    images, threat = torch.full((1, 3, 4, 4), 0.5), ThreatModel(norm, '8/255')
    (surface,) = loss_surfaces(model, images, label, threat, points=5)
    # The score falls by eps times the dual norm of its gradient.
    dual = weight.abs().sum() if norm == 'linf' else weight.norm()
    score = -8 / 255 * dual * torch.linspace(-1, 1, 5)
    close = dict(rtol=1e-4, atol=1e-6)
    assert surface.loss.shape == surface.margin.shape == (5, 5)
    expected = F.softplus(-2 * score)
    np.testing.assert_allclose(surface.loss[2], expected, **close)
    np.testing.assert_allclose(surface.margin[2], -2 * score, **close)


def test_surfaces_stay_in_the_box_and_leave_the_model_alone() -> None:
    model = Linear(torch.ones(1, 3, 4, 4)).train()
    images = torch.rand(2, 3, 4, 4).round()
    loss_surfaces(model, images, torch.tensor([0, 1]), ThreatModel(), points=3)
    everything = torch.cat(model.seen)
    assert everything.min() >= 0 and everything.max() <= 1
    assert model.training and model.weight.requires_grad
    assert model.weight.grad is None
