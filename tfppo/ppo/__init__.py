"""The PPO algorithm: configuration, data types, schedules, guard against non-finite numbers, objective and learner."""
