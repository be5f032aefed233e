"""Runs the training loop that all applications share: run folders, checkpoints, the driver, and `RunConfig`."""
