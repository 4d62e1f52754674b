import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from m2at_mm.evaluation import RobustAccuracy

# True label, label predicted clean, under pgd10 and under cw20. By hand:
# clean 4 of 5 right, pgd10 2 of 5, cw20 3 of 5, all three 1 of 5.
ROWS = [(0, 0, 0, 0), (1, 1, 1, 2), (2, 2, 0, 2), (3, 3, 1, 1), (4, 0, 0, 4)]
FIGURES = dict(clean=80.0, pgd10=40.0, cw20=60.0, worst=20.0)
FIGURES = {f'robust/{name}': value for name, value in FIGURES.items()}


def predictions() -> list[DataSample]:
    """As an adversarial classifier gives them."""
    samples = []
    for truth, clean, pgd10, cw20 in ROWS:
        sample = DataSample().set_gt_label(truth)
        sample.set_pred_label(torch.tensor([clean]))
        attacked = dict(pgd10=pgd10, cw20=cw20)
        sample.set_field(attacked, 'adversarial_pred_labels')
        samples.append(sample)
    return samples


def evaluate(samples: list[DataSample], batch_size: int) -> dict[str, float]:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        evaluator = Evaluator(dict(type='m2at_mm.RobustAccuracy'))
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start : start + batch_size])
    return evaluator.evaluate(len(samples))


@pytest.mark.parametrize('batch_size', [1, 2, 5])
@pytest.mark.parametrize('order', [1, -1], ids=['in order', 'reversed'])
def test_figures_equal_the_hand_count(batch_size: int, order: int) -> None:
    assert evaluate(predictions()[::order], batch_size) == FIGURES


def test_without_attacks() -> None:
    samples = predictions()
    for sample in samples:
        del sample.adversarial_pred_labels

    figures = evaluate(samples, 2)

    assert figures == {'robust/clean': 80.0, 'robust/worst': 80.0}


def test_images_added_to_fill_the_last_batch_do_not_count() -> None:
    """Several processes repeat images to have equally many each."""
    metric = RobustAccuracy()
    samples = [sample.to_dict() for sample in predictions()]
    metric.process(None, samples[:2])
    assert metric.evaluate(2)['robust/pgd10'] == 100.0
    # A second evaluation starts anew.
    metric.process(None, [*samples, samples[0]])
    assert metric.evaluate(5) == FIGURES


def test_unlabelled_dataset() -> None:
    samples = predictions()
    del samples[1].gt_label

    with pytest.raises(KeyError, match=r'needs gt_label.*labelled dataset'):
        evaluate(samples, 5)


@pytest.mark.parametrize('broken', [torch.nan, torch.inf])
def test_an_image_without_finite_scores_is_not_right(broken: float) -> None:
    samples = predictions()
    for index in (0, 4):  # right and wrong
        samples[index].set_pred_score(torch.tensor([broken, 0.0]))
    found = evaluate(samples, 2)
    assert found['robust/clean'] == FIGURES['robust/clean'] - 20
    assert found['robust/worst'] == FIGURES['robust/worst'] - 20


def test_several_views_of_an_image() -> None:
    metric = RobustAccuracy()
    batch = dict(data_samples=[predictions(), predictions()])
    with pytest.raises(ValueError, match=r'several views .*TestTimeAug'):
        metric.process(batch, [])
