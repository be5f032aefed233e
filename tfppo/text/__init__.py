"""PPO for language models: models, data, rewards, tasks, rollouts, training and evaluation."""
