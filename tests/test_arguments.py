from __future__ import annotations

from typing import Any

import pytest

from m2at_mm.arguments import check_count


@pytest.mark.parametrize('value', [1, 1000])
def test_counts_pass(value: int) -> None:
    check_count('steps', value)


@pytest.mark.parametrize('value', [0, -3, 2.0, '2', None])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match='whole number of at least 1') as got:
        check_count('steps', value)
    assert str(got.value).startswith(f'steps={value!r} ')
