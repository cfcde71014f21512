"""Prompt rewriting: the rewriter, its corpus, its training, rivals by search, and an honest evaluation."""
