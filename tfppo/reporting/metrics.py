"""Defines every metric of a run in one table."""

METRICS = {  # meaning by name; a run has the metrics of its application
    "rollout/episode_return_mean": "mean return of the latest 100 finished training episodes",
    "rollout/episode_length_mean": "mean length of the latest 100 finished training episodes, in steps",
    "rollout/episodes": "number of finished training episodes",
    "rollout/env_steps": "number of environment steps so far, excluding steps that only start an episode",
    "info/<name>": "mean of a number that environments report in their infos, such as is_success: its value in the "
    "last step of the latest 100 episodes that have it",
    "text/score_mean": "mean score of the rollout's responses, as the reward returns it",
    "text/score_std": "standard deviation of these scores",
    "text/scaled_score_mean": "mean of the scores after normalization and clipping, as PPO maximizes them",
    "text/kl": "mean over responses of the sum over tokens of log pi - log pi_ref, in nats (Ziegler et al. 2019); an "
    "estimate from samples, which can be negative",
    "text/kl_coeff": "coefficient of the KL to the reference in the iteration",
    "text/reward_mean": "text/scaled_score_mean minus missing_end_penalty x the fraction of responses that do not end, "
    "minus text/kl_coeff x text/kl: the objective that PPO maximizes",
    "text/response_length_mean": "mean length of a response, in words",
    "text/response_tokens_mean": "mean length of a response, in tokens, including its end",
    "text/eos_fraction": "fraction of responses that end within the response length",
    "text/distinct_2": "distinct word pairs divided by all word pairs of the rollout's responses (Li et al. 2016)",
    "text/sampler_gap": "largest difference of a token's log-probability between sampling and the full forward pass",
    "reward/<name>": "mean score of one of several rewards, before its weight; the name is that of the function",
    "sft/loss": "mean negative log-likelihood of the counted training tokens since the row before, in nats per token, "
    "with dropout; in runs of tfppo sft and tfppo pretrain",
    "sft/accuracy": "fraction of these tokens that had the highest probability",
    "sft/epoch": "number of passes over the training examples so far",
    "reward_model/loss": "mean loss of the training pairs since the row before, -log sigmoid(r_better - r_worse - "
    "margin), in nats per pair, with dropout",
    "reward_model/accuracy": "fraction of these pairs whose better text had the higher score",
    "reward_model/epoch": "number of passes over the training examples so far",
    "validation/return_mean": "mean return of greedy validation episodes; as all of these metrics, it is measured "
    "every validation_interval iterations and repeated in between",
    "validation/stochastic_return_mean": "mean return of validation episodes with sampled actions",
    "validation/score_mean": "mean score of responses to the validation prompts; as all of these metrics, it is "
    "measured every validation_interval iterations and repeated in between",
    "validation/kl": "KL of these responses to the reference policy, as text/kl",
    "validation/response_length_mean": "mean length of these responses, in words",
    "validation/<metric>": "the metric of the task for these responses",
    "validation/loss": "mean negative log-likelihood of the counted validation tokens, in nats per token; of a reward "
    "model the mean loss of the validation pairs, in nats per pair",
    "validation/perplexity": "exp(validation/loss)",
    "validation/accuracy": "fraction of these tokens that had the highest probability; of a reward model the fraction "
    "of these pairs whose better text had the higher score",
    "loss/policy": "negated clipped surrogate (Schulman et al. 2017, eq. 7)",
    "loss/value": "half the mean squared error of the values, clipped if value_clip is set; a run without a value "
    "function has neither this metric nor those of the group value",
    "loss/entropy": "negated entropy, before its coefficient",
    "loss/kl": "the penalized KL, before its coefficient: KL(old || new), or KL(policy || reference)",
    "loss/pretraining": "negative log-likelihood of the pretraining data, in nats per token, before its coefficient "
    "(Ouyang et al. 2022, eq. 2); only with pretraining_data",
    "loss/total": "the minimized loss: the sum of the terms times their coefficients",
    "policy/approx_kl": "k3 estimate of KL(old || new) (Schulman 2020)",
    "policy/clip_fraction": "fraction of ratios below 1 - clip_ratio or above 1 + clip_ratio (or clip_ratio_high)",
    "policy/entropy": "mean entropy of the policy, in nats",
    "policy/ratio_max": "largest ratio of new to old probability",
    "policy/first_ratio_max": "policy/ratio_max of the first minibatch: 1, unless sampler and learner disagree",
    "policy/grad_norm": "global norm of the gradient before clipping",
    "value/explained_variance": "1 - Var(returns - values) / Var(returns), with the values of the rollout",
    "value/clip_fraction": "fraction of values outside old value +- value_clip",
    "schedule/learning_rate": "learning rate of the iteration",
    "schedule/clip_ratio": "clip ratio of the iteration; clip_ratio_high follows the same schedule",
    "schedule/entropy_coeff": "coefficient of the entropy bonus in the iteration",
    "schedule/kl_coeff": "coefficient of the KL penalty in the iteration",
    "guard/skipped_updates": "number of updates skipped so far because a value in them was not finite",
    "time/env_steps_per_s": "transitions collected and trained on per second in the latest iteration, or fused call",
    "time/tokens_per_s": "response tokens sampled and trained on per second in the latest iteration",
    "time/rollout_s": "seconds that the iteration waited for its rollout",
    "time/update_s": "seconds that the iteration spent in its update",
}
