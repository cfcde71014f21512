"""Scores of pictures: relevance to a text, aesthetics, Promptist's combination, preference and classical measures."""
