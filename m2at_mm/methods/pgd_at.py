"""PGD adversarial training."""

from __future__ import annotations

from m2at_mm.methods.base import Method
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class PGDAT(Method):
    """The classifier's loss on adversarial images: CE(f(x + d), y).

    Madry et al., arXiv 1706.06083, equation 2.1.
    """
