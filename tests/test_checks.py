from contextlib import nullcontext
from typing import Any

import pytest

from m2at_mm.checks import check_choice, check_count, check_number


@pytest.mark.parametrize('value', [0, -3, 2.0, '2', None, True])
def test_anything_else_is_no_count(value: Any) -> None:
    check_count('steps', 1)
    with pytest.raises(ValueError, match='whole number of at least 1') as got:
        check_count('steps', value)
    assert str(got.value).startswith(f'steps={value!r} ')


@pytest.mark.parametrize(
    ('value', 'bounds', 'words'),
    [
        (0, {}, None),
        (-2.5, {}, None),
        (0, dict(least=0, most=1), None),
        (1, dict(least=0, most=1), None),
        (0.01, dict(above=0, below=1), None),
        ('6', {}, "beta='6' must be a finite number$"),
        (True, {}, 'beta=True must'),
        (float('nan'), {}, 'beta=nan must'),
        (float('inf'), dict(least=0), 'beta=inf must'),
        (-1, dict(least=0), 'beta=-1 .*, at least 0$'),
        (0, dict(above=0, most=1), 'beta=0 .*, above 0 and at most 1$'),
        (1, dict(least=0, below=1), 'beta=1 .*, at least 0 and below 1$'),
    ],
)
def test_numbers_in_bounds(value: Any, bounds: Any, words: str | None) -> None:
    refused = pytest.raises(ValueError, match=words or '')
    with refused if words else nullcontext():
        check_number('beta', value, **bounds)


def test_choices_are_listed() -> None:
    check_choice('norm', 'l2', ['linf', 'l2'])
    with pytest.raises(ValueError, match=r"norm='l3' .*\['linf', 'l2'\]"):
        check_choice('norm', 'l3', ['linf', 'l2'])
