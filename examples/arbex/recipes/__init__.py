"""Recipes by name, and how a recipe is read and checked."""
