"""A robustness result in the form that RobustBench publishes."""

from typing import Any

from m2at_mm.checks import check_choice

#: What the author of a claim fills in.
CLAIM_FIELDS = ('link', 'name', 'authors', 'venue', 'architecture')


def make_claim(
    results: dict[str, Any], dataset: str, **about: str
) -> dict[str, Any]:
    """The JSON of a model in RobustBench's ``model_info``.

    The results are those of ``tools/test.py``, with AutoAttack, on a dataset
    like ``'cifar10'``. What of :data:`CLAIM_FIELDS` is missing is left empty,
    to be filled in. Accuracies are strings in per cent. ``num_samples`` and
    ``alarms`` stand besides RobustBench's fields, so that nobody takes a claim
    on a subset for one on the test set.

    Raises:
        ValueError: The results are without AutoAttack, or a field is unknown.
    """
    if 'autoattack' not in results['attacks']:
        raise ValueError(
            f'the results have {list(results["attacks"])}, but a claim needs '
            'autoattack: run tools/test.py --attacks autoattack'
        )
    for name in about:
        check_choice('field', name, CLAIM_FIELDS)
    norm, eps = (results['threat_model'][name] for name in ('norm', 'eps'))
    return dict(
        dict.fromkeys(CLAIM_FIELDS, '') | about,
        additional_data=False,
        number_forward_passes=1,
        dataset=dataset,
        norm={'linf': 'Linf', 'l2': 'L2'}[norm],
        eps=f'{eps:g}' if norm == 'l2' else f'{eps * 255:.4g}/255',
        clean_acc=f'{results["clean"]:.2f}',
        reported='',
        autoattack_acc=f'{results["attacks"]["autoattack"]:.2f}',
        num_samples=results['num_samples'],
        alarms=[alarm['name'] for alarm in results['alarms']],
    )
