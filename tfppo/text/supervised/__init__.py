"""Supervised training of language models in runs of their own: what fine-tuning and reward models share."""
