"""Recipes: any mmpretrain classification config, made adversarial."""

from .apply import apply_recipe, config_root, is_adversarial, recipe_names

__all__ = ['apply_recipe', 'config_root', 'is_adversarial', 'recipe_names']
