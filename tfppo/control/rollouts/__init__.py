"""Rollouts: collectors, normalization of observations and rewards, episode statistics, and batches for the learner."""
