"""Recipes: any mmpretrain classification config, made adversarial."""

from .apply import (
    apply_recipe,
    config_root,
    is_adversarial,
    recipe_names,
    with_named_recipe,
)

__all__ = [
    'apply_recipe',
    'config_root',
    'is_adversarial',
    'recipe_names',
    'with_named_recipe',
]
