"""Rollouts of text: samples responses, scores them, and turns them into the batch of the learner."""
