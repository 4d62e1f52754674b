"""Recipes: any mmpretrain classification config, made adversarial."""

from m2at_mm.recipes.apply import (
    apply_recipe,
    config_root,
    is_adversarial,
    recipe_names,
)

__all__ = ['apply_recipe', 'config_root', 'is_adversarial', 'recipe_names']
