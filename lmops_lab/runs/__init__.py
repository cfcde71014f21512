"""Parameterised notebooks: checked parameters, execution with progress, and a folder with everything a run made."""
