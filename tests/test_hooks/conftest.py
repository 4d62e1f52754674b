from __future__ import annotations

from collections.abc import Iterator

import pytest
from mmengine.config import Config


@pytest.fixture(scope='module', autouse=True)
def plain_config_text() -> Iterator[None]:
    """MMEngine formats the config seven times, half a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(repr))
        yield
