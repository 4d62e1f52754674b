"""A robustness result in the form that RobustBench publishes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

_FIELDS = ('link', 'name', 'authors', 'venue', 'architecture')


def make_claim(
    results: dict[str, Any], dataset: str, **about: str
) -> dict[str, Any]:
    """The JSON of a model in RobustBench's ``model_info``.

    Args:
        results (dict): Of ``tools/test.py``, with AutoAttack.
        dataset (str): Like ``'cifar10'``.
        **about (str): ``link``, ``name``, ``authors``, ``venue`` and
            ``architecture``. What is missing is left empty, to be filled in.

    Returns:
        dict: Accuracies as strings in per cent, and ``num_samples`` and
        ``alarms`` besides RobustBench's fields, so that nobody takes a claim
        on a subset for one on the test set.

    Raises:
        ValueError: The results are without AutoAttack, or a field is unknown.
    """
    if 'autoattack' not in results['attacks']:
        raise ValueError(
            f'the results have {list(results["attacks"])}, but a claim needs '
            'autoattack: run tools/test.py --attacks autoattack'
        )
    unknown = set(about) - set(_FIELDS)
    if unknown:
        raise ValueError(
            f'{sorted(unknown)} are no fields of a claim: choose from '
            f'{list(_FIELDS)}'
        )
    threat = results['threat_model']
    claim: dict[str, Any] = {name: about.get(name, '') for name in _FIELDS}
    claim.update(
        additional_data=False,
        number_forward_passes=1,
        dataset=dataset,
        norm={'linf': 'Linf', 'l2': 'L2'}[threat['norm']],
        eps=_radius(threat),
        clean_acc=f'{results["clean"]:.2f}',
        reported='',
        autoattack_acc=f'{results["attacks"]["autoattack"]:.2f}',
        num_samples=results['num_samples'],
        alarms=[alarm['name'] for alarm in results['alarms']],
    )
    return claim


def _radius(threat: dict[str, Any]) -> str:
    if threat['norm'] == 'l2':
        return f'{threat["eps"]:g}'
    pixels = Fraction(threat['eps'] * 255).limit_denominator(100)
    return (
        f'{pixels}/255'
        if pixels.denominator == 1
        else (f'{float(pixels):g}/255')
    )
