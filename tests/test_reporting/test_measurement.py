from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_runner import build_digits_runner

from m2at_mm.datasets import Digits
from m2at_mm.reporting.image_sections import examples, surfaces
from m2at_mm.reporting.measurement import Measurement, class_names, measure
from m2at_mm.reporting.run_log import RunLog, read_run

NUM = 12


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    folder = tmp_path_factory.mktemp('report') / 'run'
    build_digits_runner(folder, 40).train()
    return read_run(folder)


@pytest.fixture(scope='module')
def measured(run: RunLog) -> Measurement:
    return measure(run, NUM)


def test_the_best_checkpoint_is_attacked_at_five_radii(
    run: RunLog, measured: Measurement
) -> None:
    sweep = measured.results['sweep']
    radii = [one['threat_model']['eps'] * 255 for one in sweep]
    assert radii == pytest.approx([8, 16, 32, 48, 64])
    assert measured.results['threat_model']['eps'] == 32 / 255
    assert measured.outcome.attacks == ['pgd20']
    dataset = Digits(split='test', indices=40)
    positions = measured.outcome.positions
    assert positions is not None and len(positions) == NUM
    labels = [dataset[int(k)]['gt_label'] for k in positions]
    assert measured.outcome.labels.tolist() == labels
    assert sorted(np.bincount(labels)) == [1] * 8 + [2] * 2


def test_examples_are_of_several_classes(measured: Measurement) -> None:
    dataset = Digits(split='test', indices=40)
    positions = measured.outcome.positions
    assert positions is not None
    images = [dataset[int(k)]['img'] / 255 for k in positions]
    assert len(measured.examples) == 6 and len(measured.surfaces) == 3
    assert len({example.label for example in measured.examples}) == 6
    for example in measured.examples:
        (number,) = [
            n
            for n, image in enumerate(images)
            if np.allclose(image, example.clean, atol=1e-6)
        ]
        assert example.label == measured.outcome.labels[number]
        change = np.abs(example.adversarial - example.clean).max()
        assert 0 < change <= 32 / 255 + 1e-6
        predicted = measured.outcome.predictions['clean'][number]
        assert example.predicted[0] == predicted
    # The middle of a surface is the image itself.
    middle = measured.surfaces[0].loss[10, 10]
    example = measured.examples[0]
    if example.predicted[0] == example.label:
        assert np.exp(-middle) == pytest.approx(example.predicted[1], abs=1e-4)


def test_sections_show_them(run: RunLog, measured: Measurement) -> None:
    by_name = {run.name: measured}
    panels = examples([run], by_name).blocks[-1].content
    assert len(panels) == 6
    label = measured.examples[0].label
    assert panels[0].lines[0] == f'True class: {label}'
    assert f'alt="Clean test image 1, {label}"' in panels[0].panels[0][1]
    assert len(surfaces([run], by_name).blocks[-1].content) == 3


def test_nothing_is_written_into_the_work_dir(
    run: RunLog, measured: Measurement
) -> None:
    assert not (run.folder / 'evaluation').exists()
    assert len([*run.folder.glob('*/vis_data')]) == 1


def test_fewer_images_than_asked_for(run: RunLog) -> None:
    assert len(measure(run, 10**6).outcome.labels) == 40


def test_a_checkpoint_of_another_network(run: RunLog, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(run.folder, folder)
    spoilt = read_run(folder)
    assert spoilt.checkpoint is not None
    torch.save(dict(state_dict={}, meta={}), spoilt.checkpoint)
    with pytest.raises(ValueError, match='does not fit the model'):
        measure(spoilt, 2)


def test_class_names_without_data() -> None:
    def of(**dataset: object) -> object:
        return class_names(dict(test_dataloader=dict(dataset=dataset)))

    assert of(type='m2at_mm.CIFAR10', data_root='nowhere')[9] == 'truck'
    assert of(type='CustomDataset') is None and class_names({}) is None
    given = dict(classes=['a', 'b'])
    assert of(type='CustomDataset', metainfo=given) == ['a', 'b']
