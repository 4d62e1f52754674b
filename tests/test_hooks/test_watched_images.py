from pathlib import Path

import torch
from digits_runner import build_digits_runner, quick_cfg

from m2at_mm.evaluation.samples import spread_order
from m2at_mm.hooks.watched_images import watched_batches


def test_the_same_images_spread_over_the_classes(tmp_path: Path) -> None:
    runner = build_digits_runner(
        tmp_path, 20, network=quick_cfg, val_dataloader=dict(batch_size=3)
    )
    state = torch.get_rng_state()
    batches = watched_batches(runner, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(labels) for _, labels in batches] == [3, 3, 2]
    ((images, labels),) = watched_batches(runner, 8, least=10)
    assert torch.equal(torch.cat([one for one, _ in batches]), images)
    assert len(labels.unique()) == 8
    dataset = runner.val_loop.dataloader.dataset
    order = spread_order(dataset.get_gt_labels())[:8]
    for k, image, label in zip(order, images, labels):
        sample = dataset[int(k)]
        assert torch.equal(image, sample['inputs'] / 255)
        assert label == sample['data_samples'].gt_label
