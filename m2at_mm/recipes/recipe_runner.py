"""A runner of configs that name a recipe."""

from mmengine.config import Config
from mmengine.runner import Runner

from m2at_mm.recipes.apply import with_named_recipe
from m2at_mm.registry import RUNNERS


@RUNNERS.register_module()
class RecipeRunner(Runner):
    """MMEngine's runner, of a config made adversarial by its ``recipe``.

    It lets mmpretrain's own tools train a config that has, beside its base,
    two lines::

        runner_type = 'm2at_mm.RecipeRunner'
        recipe = 'm2at'

    See :func:`m2at_mm.recipes.with_named_recipe`.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> Runner:
        """Build it from a config, to which the recipe is applied."""
        return super().from_cfg(with_named_recipe(cfg))
