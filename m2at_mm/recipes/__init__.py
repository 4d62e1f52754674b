"""Recipes: any mmpretrain classification config, made adversarial."""

from .apply import (
    apply_recipe,
    config_root,
    is_adversarial,
    recipe_names,
    with_named_recipe,
)
from .recipe_runner import RecipeRunner

__all__ = [
    'RecipeRunner',
    'apply_recipe',
    'config_root',
    'is_adversarial',
    'recipe_names',
    'with_named_recipe',
]
