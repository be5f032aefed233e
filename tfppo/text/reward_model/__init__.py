"""Training of reward models on comparisons or ratings of texts."""
