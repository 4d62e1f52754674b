"""Trainings that are killed and resumed, against one that ran through."""
