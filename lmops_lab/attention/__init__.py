"""Structured attention: grouping, encoding, partial attentions and their merge, the hook into transformers."""
