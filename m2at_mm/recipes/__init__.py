"""Recipes: any mmpretrain classification config, made adversarial."""

from m2at_mm.recipes.apply import (
    apply_recipe,
    config_root,
    recipe_names,
    with_named_recipe,
)
from m2at_mm.recipes.support import is_adversarial

__all__ = [
    'apply_recipe',
    'config_root',
    'is_adversarial',
    'recipe_names',
    'with_named_recipe',
]
