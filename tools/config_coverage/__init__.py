"""Tries a recipe on every config of the installed mmpretrain."""
