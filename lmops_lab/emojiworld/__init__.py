"""The offline picture world: emoji scenes with a known truth, and the tiny stock-format models trained on them."""
