"""Rewards: functions of the user, and the reward model that is trained on human ratings."""
