"""Pretraining: supervised training of a language model on the sentences that are shipped with tfppo."""
