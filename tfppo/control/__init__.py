"""PPO for control: environments, policies, rollouts, and the trainer of a control run."""
