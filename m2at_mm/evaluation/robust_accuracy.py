"""Accuracy on clean images, under each attack, and in the worst case."""

from collections.abc import Sequence
from typing import Any, NoReturn

from mmengine.evaluator import BaseMetric

from m2at_mm.registry import METRICS


@METRICS.register_module()
class RobustAccuracy(BaseMetric):
    """Top-1 accuracy, clean and under the model's ``eval_attacks``.

    It reports, in per cent, ``robust/clean``, ``robust/NAME`` for each attack
    of the model's ``eval_attacks``, and ``robust/worst``: the share of images
    that are classified correctly both clean and under every attack. With
    several processes each sample counts once.

    Args:
        collect_device (str): ``'cpu'`` or ``'gpu'``, where the results of
            several processes are joined.
        prefix (str, optional): Replaces ``robust`` in the names.

    Example:
        >>> val_evaluator = dict(type='m2at_mm.RobustAccuracy')
        >>> default_hooks = dict(checkpoint=dict(
        ...     type='CheckpointHook', save_best='robust/pgd10',
        ...     rule='greater'))
    """

    default_prefix: str | None = 'robust'

    def process(
        self, data_batch: Any, data_samples: Sequence[dict[str, Any]]
    ) -> None:
        """Note for each image which predictions are right.

        Raises:
            KeyError: The dataset has no labels.
            ValueError: The batch has several views of each image.
        """
        if isinstance(data_batch, dict):
            views = data_batch.get('data_samples') or [None]
            if isinstance(views, (list, tuple)) and isinstance(
                views[0], (list, tuple)
            ):
                refuse_several_views()
        for sample in data_samples:
            if 'gt_label' not in sample:
                raise KeyError(
                    'RobustAccuracy needs gt_label, but the samples have '
                    f'{sorted(sample)}: evaluate on a labelled dataset'
                )
            truth = int(sample['gt_label'])
            # Where scores are not a number, the label means nothing.
            scores = sample.get('pred_score')
            finite = scores is None or bool(scores.isfinite().all())
            correct = dict(clean=finite and int(sample['pred_label']) == truth)
            attacked = sample.get('adversarial_pred_labels', {})
            correct |= {name: attacked[name] == truth for name in attacked}
            self.results.append(correct)

    def compute_metrics(
        self, results: list[dict[str, bool]]
    ) -> dict[str, float]:
        """Accuracies in per cent, from what :meth:`process` noted."""
        rows = [dict(one, worst=all(one.values())) for one in results]
        right = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {name: 100 * right[name] / len(rows) for name in right}


def refuse_several_views() -> NoReturn:
    """Raise ValueError: the attacks know one view of an image."""
    raise ValueError(
        'RobustAccuracy needs a model that sees one view of an image, but '
        'this one averages several views (TestTimeAug), and the attacks are '
        'against one alone: test without TestTimeAug, or remove '
        'RobustAccuracy from test_evaluator and report Accuracy'
    )
