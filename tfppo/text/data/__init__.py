"""Corpus, tokenizer, encoding of prompts, and metrics of texts."""
