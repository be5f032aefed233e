"""Supervised fine-tuning of language models by maximum likelihood."""
