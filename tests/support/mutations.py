"""Defects that the tests must catch. Each row is one wrong operator, bound, mask, sign, index or order.

`run_mutations.py` applies them one at a time to a copy of the repository and runs the tests that the row names.
"""

from typing import NamedTuple

GROUPS = ("losses", "returns", "masks", "rollouts", "normalisation", "sampling", "resume", "guards", "replicas")
"""Groups that must have mutations. Rows may belong to other groups too."""


class Mutation(NamedTuple):
    """A defect, and the tests that must catch it."""

    file: str
    """The file to change, relative to the root of the repository."""
    old: str
    """The text to replace. It occurs in the file exactly once."""
    new: str
    """The new text."""
    tests: tuple[str, ...]
    """Node ids of fast tests. At least one of them must fail."""
    group: str
    caught: bool = True
    """False marks a known gap: no fast test fails."""


CHECKPOINTS = "tests/training/test_checkpoints.py::"
CODEC = "tests/text/data/test_codec.py::"
COLLECTORS = "tests/control/rollouts/test_gymnasium.py::"
DISTRIBUTIONS = "tests/ops/test_distributions.py::"
DIVERGENCES = "tests/ops/test_divergences.py::"
EPISODES = "tests/control/envs/test_episodes.py::"
TRAJECTORY = "tests/control/rollouts/test_trajectory.py::"
TEXT_BATCH = "tests/text/rollouts/test_batch.py::"
GUARDS = "tests/ppo/test_guard.py::"
LEARNER = "tests/ppo/test_learner.py::"
LOSSES = "tests/ops/test_losses.py::"
MASKING = "tests/ops/test_masking.py::"
NORMALIZATION = "tests/control/rollouts/test_normalization.py::"
NOT_FINITE = "tests/control/rollouts/test_not_finite.py::"
POLICY = "tests/text/test_policy.py::"
PPO = "tests/test_article.py::"
RANDOM = "tests/ops/test_random.py::"
REPLICAS = "tests/execution/test_replicas.py::"
RETURNS = "tests/ops/test_returns.py::"
REWARDS = "tests/text/rewards/test_callables.py::"
ROLLOUT = "tests/control/rollouts/test_graph.py::"
SAMPLING = "tests/text/rollouts/test_sampling.py::"
SCHEDULES = "tests/ppo/test_schedules.py::"
SNAPSHOTS = "tests/control/envs/test_snapshots.py::"
STATISTICS = "tests/control/rollouts/test_statistics.py::"
TEXT_ROLLOUT = "tests/text/rollouts/test_rollout.py::"
WRITERS = "tests/reporting/test_writers.py::"

MUTATIONS = (
    # ----- losses
    Mutation(
        "tfppo/ops/losses.py",
        "losses = tf.maximum(-advantages * ratio,",
        "losses = tf.minimum(-advantages * ratio,",
        (LOSSES + "test_surrogate_equals_the_loop",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "tf.clip_by_value(ratio, 1 - clip_ratio, 1 + clip_ratio)",
        "tf.clip_by_value(ratio, 1 / (1 + clip_ratio), 1 + clip_ratio)",
        (LOSSES + "test_surrogate_equals_the_loop",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "tf.abs(ratio - 1) > clip_ratio",
        "ratio - 1 > clip_ratio",
        (LOSSES + "test_surrogate_equals_the_loop",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "log_probs - tf.stop_gradient(old_log_probs)",
        "log_probs - old_log_probs",
        (LOSSES + "test_the_gradient_flows_to_the_first_argument_only",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "advantages = tf.stop_gradient(zero_outside(advantages, mask))",
        "advantages = zero_outside(advantages, mask)",
        (LOSSES + "test_the_gradient_flows_to_the_first_argument_only",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "tf.where(advantages < 0, tf.minimum(losses",
        "tf.where(advantages > 0, tf.minimum(losses",
        (LOSSES + "test_dual_clip_bounds_the_loss_of_bad_actions_that_became_likely",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)",
        "tf.maximum(log_ratio, -MAX_LOG_RATIO)",
        (LOSSES + "test_the_log_ratio_is_clamped_so_that_nothing_overflows",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "losses = tf.maximum(losses, tf.square(clipped - returns))",
        "losses = tf.minimum(losses, tf.square(clipped - returns))",
        (LOSSES + "test_the_value_gradient_is_that_of_the_larger_error",),
        "losses",
    ),
    Mutation(
        "tfppo/ops/losses.py",
        "return masked_mean(losses, mask, normalizer) / 2, {",
        "return masked_mean(losses, mask, normalizer), {",
        (LOSSES + "test_value_loss_equals_the_loop",),
        "losses",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "- coefficients.entropy_coeff * entropy",
        "+ coefficients.entropy_coeff * entropy",
        (LEARNER + "test_two_updates_equal_the_slow_ones",),
        "losses",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        'if config.kl_coeff > 0 and config.kl_in == "loss":',
        "if config.kl_coeff > 0:",
        (LEARNER + "test_kl_in_the_reward_is_no_part_of_the_loss",),
        "losses",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "gradients, _ = tf.clip_by_global_norm(gradients, self.config.max_grad_norm, use_norm=norm)",
        "gradients = [tf.clip_by_norm(x, self.config.max_grad_norm) for x in gradients]",
        (LEARNER + "test_gradients_are_clipped_by_their_global_norm_and_reported_before",),
        "losses",
    ),
    # ----- returns
    Mutation(
        "tfppo/ops/returns.py",
        "decay, terminated | tf.convert_to_tensor(truncated)",
        "decay, tf.convert_to_tensor(terminated)",
        (RETURNS + "test_what_an_end_cuts",),
        "returns",
    ),
    Mutation(
        "tfppo/ops/returns.py",
        "successor = tf.where(terminated,",
        "successor = tf.where(tf.convert_to_tensor(terminated) | truncated,",
        (RETURNS + "test_what_an_end_cuts",),
        "returns",
    ),
    Mutation(
        "tfppo/ops/returns.py",
        "tf.where(terminated, tf.zeros_like(rewards), next_values)",
        "next_values * (1 - tf.cast(terminated, rewards.dtype))",
        (RETURNS + "test_nan_beyond_an_end_reaches_neither_the_earlier_episode_nor_its_gradient",),
        "returns",
    ),
    Mutation(
        "tfppo/ops/returns.py",
        "tf.where(is_end_t, tf.zeros_like(later), later)",
        "later * (1 - tf.cast(is_end_t, later.dtype))",
        (RETURNS + "test_nan_beyond_an_end_reaches_neither_the_earlier_episode_nor_its_gradient",),
        "returns",
    ),
    Mutation(
        "tfppo/ops/returns.py",
        "decay * gae_lambda, is_end)",
        "gae_lambda + 0 * decay, is_end)",
        (RETURNS + "test_both_equal_the_loop",),
        "returns",
    ),
    Mutation(
        "tfppo/ops/returns.py",
        "is_cut = is_end | is_last",
        "is_cut = is_end",
        (RETURNS + "test_both_equal_the_loop",),
        "returns",
    ),
    Mutation(
        "tfppo/ops/returns.py",
        "tf.where(is_cut, targets, rewards)",
        "targets",
        (RETURNS + "test_both_equal_the_loop",),
        "returns",
    ),
    Mutation(
        "tfppo/control/rollouts/transitions.py",
        "cut[t] |= length == episode_len",
        "cut[t] |= length > episode_len",
        (PPO + "test_the_batch_is_gae_on_the_transitions",),
        "returns",
    ),
    Mutation(
        "tfppo/control/rollouts/transitions.py",
        "if cut[t] or terminated[t]:",
        "if cut[t]:",
        (PPO + "test_the_batch_is_gae_on_the_transitions",),
        "returns",
    ),
    Mutation(
        "tfppo/control/rollouts/transitions.py",
        "axis=1), True)",
        "axis=1), False)",
        (PPO + "test_without_a_mask_cuts_are_inferred_and_with_one_it_counts_too",),
        "returns",
    ),
    # ----- masks
    Mutation(
        "tfppo/ops/masking.py",
        "count = tf.size(values, out_type=tf.int64) if mask is None else tf.math.count_nonzero(mask)",
        "count = tf.size(values, out_type=tf.int64)",
        (MASKING + "test_sum_and_mean_count_only_the_masked_entries",),
        "masks",
    ),
    Mutation(
        "tfppo/ops/masking.py",
        "return tf.where(mask, values, tf.zeros_like(values))",
        "return values * tf.cast(mask, values.dtype)",
        (MASKING + "test_nan_outside_the_mask_reaches_neither_value_nor_gradient",),
        "masks",
    ),
    Mutation(
        "tfppo/ops/masking.py",
        "normalizer = tf.maximum(count, 1)",
        "normalizer = count",
        (MASKING + "test_an_empty_mask_gives_zero",),
        "masks",
    ),
    Mutation(
        "tfppo/ops/masking.py",
        "variance = masked_mean(tf.square(shifted - mean), mask)",
        "variance = masked_mean(tf.square(shifted - mean))",
        (MASKING + "test_whiten_equals_the_loop",),
        "masks",
    ),
    Mutation(
        "tfppo/ops/masking.py",
        "return zero_outside(whitened, mask)",
        "return whitened",
        (MASKING + "test_whiten_equals_the_loop",),
        "masks",
    ),
    Mutation(
        "tfppo/ops/masking.py",
        "residual_variance = _masked_variance(returns - values, mask)",
        "residual_variance = _masked_variance(returns - values, None)",
        (MASKING + "test_explained_variance_equals_the_loop",),
        "masks",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "masked_whiten(minibatch.advantages, minibatch.mask)",
        "masked_whiten(minibatch.advantages)",
        (LEARNER + "test_two_updates_equal_the_slow_ones",),
        "masks",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "masked_mean(evaluation.entropies, batch.mask, normalizers.actions)",
        "masked_mean(evaluation.entropies, None, normalizers.actions)",
        (LEARNER + "test_two_updates_equal_the_slow_ones",),
        "masks",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "mask=value_mask_of(batch),",
        "mask=batch.mask,",
        (LEARNER + "test_the_value_mask_counts_for_the_values_and_the_mask_for_the_rest",),
        "masks",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "masked_sum(ones, value_mask_of(minibatch))",
        "masked_sum(ones, minibatch.mask)",
        (LEARNER + "test_the_value_mask_counts_for_the_values_and_the_mask_for_the_rest",),
        "masks",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "explained_variance(batch.old_values, batch.returns, value_mask_of(batch))",
        "explained_variance(batch.old_values, batch.returns)",
        (LEARNER + "test_explained_variance_is_that_of_the_masked_rollout",),
        "masks",
    ),
    # ----- rollouts
    Mutation(
        "tfppo/control/envs/episodes.py",
        "(lengths >= environment.max_episode_steps)",
        "(lengths > environment.max_episode_steps)",
        (EPISODES + "test_flags_at_the_time_limit_are_those_of_gymnasium",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/envs/episodes.py",
        "terminated = terminated & ~starts",
        "terminated = tf.identity(terminated)",
        (EPISODES + "test_autoreset_step_ignores_the_action_and_gives_nothing",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/envs/episodes.py",
        "tf.where(starts, tf.zeros_like(episodes.lengths), episodes.lengths + 1)",
        "tf.where(starts, tf.ones_like(episodes.lengths), episodes.lengths + 1)",
        (EPISODES + "test_autoreset_step_ignores_the_action_and_gives_nothing",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/envs/episodes.py",
        "lengths, terminated | truncated)",
        "lengths, terminated)",
        (TRAJECTORY + "test_starts_are_new_in_every_step_and_place", TRAJECTORY + "test_trajectory_equals_a_slow_loop"),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/trajectory.py",
        "return episodes, forget(memory, ~transition.mask), row",
        "return episodes, memory, row",
        ("tests/control/test_trainer.py::test_memory_is_that_of_the_episode_alone",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/trajectory.py",
        "fold_in(step_seed, time)",
        "step_seed",
        (TRAJECTORY + "test_trajectory_equals_a_slow_loop",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/batches.py",
        "next_values = values[1:]",
        "next_values = values[:-1]",
        (ROLLOUT + "test_successors_are_the_next_observations_and_nothing_is_reset_between_rollouts",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/batches.py",
        "policy.evaluate_trajectory(successors, mask, memory)",
        "policy.evaluate_trajectory(map_tensors(lambda x: x[1:], observations), mask, memory)",
        (ROLLOUT + "test_successors_of_the_trajectory_go_before_the_next_observations",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/stepping.py",
        "np.where(counts, rewards, 0.0)",
        "rewards",
        (COLLECTORS + "test_whatever_a_starting_step_reports_is_ignored",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/stepping.py",
        'infos["final_obs"][index])',
        "observations[index])",
        (COLLECTORS + "test_truncation_bootstraps_from_the_final_observation",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/stepping.py",
        "self.done = terminated | truncated",
        "self.done = np.array(terminated)",
        (COLLECTORS + "test_steps_that_only_start_an_episode_are_masked",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/stepping.py",
        "self._lengths += counts",
        "self._lengths += 1",
        (COLLECTORS + "test_returns_and_lengths_of_episodes",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/statistics.py",
        "self.env_steps.assign_add(tf.math.count_nonzero(trajectory.mask))",
        "self.env_steps.assign_add(tf.size(trajectory.mask, tf.int64))",
        (STATISTICS + "test_steps_that_only_start_an_episode_are_no_environment_steps",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/rollouts/statistics.py",
        "exclusive=True, reverse=True)",
        "exclusive=False, reverse=True)",
        (STATISTICS + "test_means_over_the_latest_episodes_equal_a_deque",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/policies/lstm.py",
        "_Memory(*(tf.where(keep, x, 0.0) for x in (h, c)))",
        "_Memory(h, tf.where(keep, c, 0.0))",
        ("tests/control/policies/test_recurrent.py::test_a_review_and_an_evaluation_are_what_was_seen_step_by_step",),
        "rollouts",
    ),
    Mutation(
        "tfppo/training/pipeline.py",
        "dataset = dataset.map(element)",
        "dataset = dataset.map(element).prefetch(1)",
        ("tests/training/test_pipeline.py::test_element_k_is_collected_with_the_weights_of_version_k",),
        "rollouts",
    ),
    Mutation(
        "tfppo/control/evaluate.py",
        "(np.arange(num_envs) < episodes % num_envs)",
        "(np.arange(num_envs) >= num_envs - episodes % num_envs)",
        ("tests/control/test_evaluate.py::test_every_environment_plays_its_share",),
        "rollouts",
    ),
    # ----- normalisation
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "moments.mean + delta * count / total",
        "moments.mean + delta * moments.count / total",
        (NORMALIZATION + "test_merged_moments_are_those_of_the_joined_data",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "tf.square(delta) * moments.count * count / total",
        "tf.square(delta) * count / total",
        (NORMALIZATION + "test_merged_moments_are_those_of_the_joined_data",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "seen = finite_outside(x[:-1], trajectory.mask, x[1:])",
        "seen = finite_outside(x[1:], trajectory.mask, x[:-1])",
        (NORMALIZATION + "test_observations_are_normalised_by_what_came_before",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "return total * (1.0 - end), total",
        "return total, total",
        (NORMALIZATION + "test_rewards_are_scaled_as_by_a_slow_loop",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "tf.cast(trajectory.terminated | trajectory.truncated, tf.float32)",
        "tf.cast(trajectory.terminated, tf.float32)",
        (NORMALIZATION + "test_rewards_are_scaled_as_by_a_slow_loop",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "self._running.assign(ongoing[-1])",
        "self._running.assign(returns[-1])",
        (NORMALIZATION + "test_rewards_are_scaled_as_by_a_slow_loop",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "tf.clip_by_value((x - tf.cast(mean, x.dtype)) * scale, -CLIP, CLIP)",
        "tf.minimum((x - tf.cast(mean, x.dtype)) * scale, CLIP)",
        (NORMALIZATION + "test_observations_are_clipped_at_ten_standard_deviations",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "tf.clip_by_value(rewards * scale, -CLIP, CLIP)",
        "tf.clip_by_value((rewards - tf.cast(moments.mean, tf.float32)) * scale, -CLIP, CLIP)",
        (NORMALIZATION + "test_the_mean_of_rewards_stays",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/gymnasium.py",
        "successors=self.normalization.observations(trajectory.successors)",
        "successors=trajectory.successors",
        (NORMALIZATION + "test_a_gymnasium_policy_sees_normalised_observations",),
        "normalisation",
    ),
    Mutation(
        "tfppo/control/rollouts/trajectory.py",
        "policy.step(observations, noise_now, memory)",
        "policy.step(raw, noise_now, memory)",
        (NORMALIZATION + "test_statistics_stand_still_during_a_rollout_and_move_after_it",),
        "normalisation",
    ),
    # ----- sampling
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "last = prompt_lengths + response_length - 1",
        "last = prompt_lengths + response_length",
        (SAMPLING + "test_no_step_is_taken_that_draws_nothing",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "is_prompt = column + 1 < prompt_lengths",
        "is_prompt = column < prompt_lengths",
        (SAMPLING + "test_temperature_zero_draws_the_most_probable_token",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "is_drawn = ~is_prompt & ~done",
        "is_drawn = ~is_prompt",
        (SAMPLING + "test_sampling_stops_at_a_stop_token_from_an_index_on",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "stop_condition(drawn, column + 1 - prompt_lengths)",
        "stop_condition(drawn, column - prompt_lengths)",
        (SAMPLING + "test_sampling_stops_at_a_stop_token_from_an_index_on",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/data/stop_condition.py",
        "(index >= self.stop_after)",
        "(index > self.stop_after)",
        (SAMPLING + "test_a_response_is_cut_at_the_first_stop_token_from_an_index_on",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "tf.cumsum(ends, axis=1, exclusive=True)",
        "tf.cumsum(ends, axis=1)",
        (SAMPLING + "test_the_mask_reaches_up_to_and_including_the_first_end",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "fold_in(seed, column)",
        "seed",
        (SAMPLING + "test_positions_have_noise_of_their_own",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "log_prob = tf.gather(logits, drawn,",
        "log_prob = tf.gather(chosen, drawn,",
        (SAMPLING + "test_log_probs_are_those_of_the_tempered_distribution",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/sampling.py",
        "tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)",
        "tf.cumsum(tf.nn.softmax(ordered), axis=-1)",
        (SAMPLING + "test_top_p_draws_among_the_most_probable_that_reach_the_probability",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/policy.py",
        "response_positions(inputs.prompt_lengths, response_length) - 1",
        "response_positions(inputs.prompt_lengths, response_length)",
        (POLICY + "test_states_are_those_before_each_token",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/rollouts/rollout.py",
        "fold_in(self.seed, iteration)",
        "self.seed",
        (TEXT_ROLLOUT + "test_iteration_and_seed_fix_the_responses",),
        "sampling",
    ),
    Mutation(
        "tfppo/ops/random.py",
        "(tf.cast(integers, dtype) + 0.5) * 2.0**-kept_bits",
        "tf.cast(integers, dtype) * 2.0**-kept_bits",
        (RANDOM + "test_the_interval_is_open_for_every_random_word",),
        "sampling",
    ),
    Mutation(
        "tfppo/text/models/gpt2.py",
        "is_past = tf.range(length) <= index",
        "is_past = tf.range(length) < index",
        ("tests/text/models/test_gpt2.py::test_steps_are_those_of_call_with_cache",),
        "sampling",
    ),
    # ----- resume
    Mutation(
        "tfppo/training/checkpoints.py",
        "path = paths[-1]",
        "path = paths[0]",
        (CHECKPOINTS + "test_everything_comes_back_to_the_bit",),
        "resume",
    ),
    Mutation(
        "tfppo/training/checkpoints.py",
        "max(paths, key=lambda path: (_score(path), path))",
        "max(paths, key=_score)",
        (CHECKPOINTS + "test_the_best_is_kept_beside_the_latest",),
        "resume",
    ),
    Mutation(
        "tfppo/training/checkpoints.py",
        "kept = {*paths[-self._keep :], self._best(paths)}",
        "kept = {*paths[-self._keep :]}",
        (CHECKPOINTS + "test_the_best_is_kept_beside_the_latest",),
        "resume",
    ),
    Mutation(
        "tfppo/control/trainer.py",
        '"kl_coeff": self.learner.kl_coeff,',
        "",
        ("tests/control/test_trainer.py::test_state_holds_all_that_changes",),
        "resume",
    ),
    Mutation(
        "tfppo/ppo/guard.py",
        "return [self.skipped, self.in_a_row, self.found]",
        "return [self.skipped]",
        (GUARDS + "test_a_resumed_run_goes_on_counting_where_it_was",),
        "resume",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "[*self._moments.state, self._running]",
        "[*self._moments.state]",
        (NORMALIZATION + "test_state_that_is_put_back_goes_on_the_same_way",),
        "resume",
    ),
    Mutation(
        "tfppo/control/envs/episode_replay.py",
        "set_generator_state(_generator(self.env), generator)\n",
        "\n",
        (SNAPSHOTS + "test_every_autoreset_mode_goes_on_from_wherever_it_was",),
        "resume",
    ),
    Mutation(
        "tfppo/control/envs/episode_replay.py",
        "self._actions.clear()",
        "pass",
        (SNAPSHOTS + "test_only_the_running_episode_is_remembered",),
        "resume",
    ),
    Mutation(
        "tfppo/control/rollouts/stepping.py",
        "np.where(exact, returns, 0.0), np.where(exact, lengths, 0)",
        "returns, lengths",
        (SNAPSHOTS + "test_an_environment_that_cannot_be_replayed_starts_a_new_episode",),
        "resume",
    ),
    Mutation(
        "tfppo/control/rollouts/stepping.py",
        "self.done = done & exact",
        "self.done = np.zeros_like(done)",
        (SNAPSHOTS + "test_every_autoreset_mode_goes_on_from_wherever_it_was",),
        "resume",
    ),
    Mutation(
        "tfppo/control/rollouts/gymnasium.py",
        "x[exact] = new[exact]",
        "x[:] = new",
        (SNAPSHOTS + "test_the_others_go_on_exactly",),
        "resume",
    ),
    Mutation(
        "tfppo/reporting/csv_writer.py",
        'int(row["iteration"]) < start',
        'int(row["iteration"]) <= start',
        (WRITERS + "test_csv_of_a_resumed_run_drops_what_is_redone",),
        "resume",
    ),
    Mutation(
        "tfppo/training/pipeline.py",
        "tf.data.Dataset.zip(dataset, source.skip(start))",
        "tf.data.Dataset.zip(dataset, source)",
        ("tests/training/test_pipeline.py::test_element_k_is_given_element_k_of_the_source",),
        "resume",
    ),
    Mutation(
        "tfppo/training/checkpoints.py",
        "sorted({*there, *here})",
        "sorted(there)",
        (CHECKPOINTS + "test_another_architecture_is_refused",),
        "resume",
    ),
    Mutation(
        "tfppo/training/checkpoints.py",
        "sorted({*there, *here})",
        "sorted(here)",
        (CHECKPOINTS + "test_all_of_a_checkpoint_is_wanted",),
        "resume",
    ),
    Mutation(
        "tfppo/training/loop.py",
        "checkpoints.save(done,",
        "checkpoints.save(done - 1,",
        ("tests/control/test_run.py::test_intervals_thin_out_rows_and_checkpoints_and_zero_episodes_the_evaluation",),
        "resume",
    ),
    Mutation(
        "tfppo/text/trainer.py",
        '"kl_coeff": self.learner.kl_coeff,',
        "",
        ("tests/text/test_run.py::test_a_run_whose_reward_fails_keeps_its_checkpoint_and_resumes_to_the_same_end",),
        "resume",
    ),
    # ----- guards
    Mutation(
        "tfppo/ppo/guard.py",
        "self.in_a_row.assign((self.in_a_row.read_value() + 1) * bad)",
        "self.in_a_row.assign_add(bad)",
        (GUARDS + "test_the_count_starts_again_after_an_update_that_was_good",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/guard.py",
        "in_a_row >= MAX_IN_A_ROW",
        "in_a_row > MAX_IN_A_ROW",
        (GUARDS + "test_a_broken_environment_is_named_and_leaves_no_trace_in_what_is_kept",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/guard.py",
        "in reversed(list(enumerate(QUANTITIES)))",
        "in list(enumerate(QUANTITIES))",
        (GUARDS + "test_quantities_are_looked_at_in_their_order",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/types.py",
        "value_mask = value_mask_of(self)",
        "value_mask = self.mask",
        (LEARNER + "test_what_the_value_mask_leaves_out_changes_nothing",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "trained = [*self.policy.trainable_variables, *self.optimizer.variables]",
        "trained = [*self.policy.trainable_variables]",
        (GUARDS + "test_an_update_that_breaks_on_the_way_leaves_no_trace",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "self.kl_coeff.assign(tf.where(is_finite, kl_coeff, self.kl_coeff))",
        "self.kl_coeff.assign(kl_coeff)",
        (GUARDS + "test_an_update_on_what_is_not_finite_changes_nothing_and_is_counted",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        'self._step(gradients, metrics["policy/approx_kl"]) & is_finite',
        'self._step(gradients, metrics["policy/approx_kl"])',
        (GUARDS + "test_an_update_that_breaks_on_the_way_leaves_no_trace",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "lambda new, old: tf.where(is_finite, new, old)",
        "lambda new, old: new",
        (GUARDS + "test_an_update_that_breaks_on_the_way_leaves_no_trace",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "tf.where(before.steps == 0, ratio, before.first_ratio)",
        "ratio",
        (GUARDS + "test_the_first_ratio_is_that_of_the_first_minibatch_only",),
        "guards",
    ),
    Mutation(
        "tfppo/ops/masking.py",
        "_is_finite(x) | ~_over(mask, x)",
        "_is_finite(x)",
        (GUARDS + "test_finite_looks_through_nests_and_leaves_whole_numbers_alone",),
        "guards",
    ),
    Mutation(
        "tfppo/ppo/types.py",
        "finite_outside(x, ~self.terminated)",
        "finite_outside(x, ~(self.terminated | self.truncated))",
        (NOT_FINITE + "test_where_an_episode_is_only_cut_the_observation_is_named",),
        "guards",
    ),
    Mutation(
        "tfppo/control/rollouts/normalization.py",
        "counted = tf.where(tf.math.is_finite(rewards), rewards, 0.0)",
        "counted = rewards",
        (GUARDS + "test_a_broken_environment_is_named_and_leaves_no_trace_in_what_is_kept",),
        "guards",
    ),
    Mutation(
        "tfppo/control/rollouts/batches.py",
        "map_tensors(lambda x: finite_outside(x, rollout.mask), batch)",
        "map_tensors(tf.identity, batch)",
        (NOT_FINITE + "test_training_is_the_same_bit_for_bit",),
        "guards",
    ),
    # ----- replicas
    Mutation(
        "tfppo/execution/replicas.py",
        "slice(index * size, (index + 1) * size)",
        "slice(index, None, self.count)",
        (REPLICAS + "test_shares_are_consecutive_and_make_up_the_whole",),
        "replicas",
    ),
    Mutation(
        "tfppo/execution/replicas.py",
        "size = x.shape[axis] // self.count",
        "size = x.shape[0] // self.count",
        (REPLICAS + "test_shares_are_consecutive_and_make_up_the_whole",),
        "replicas",
    ),
    Mutation(
        "tfppo/execution/replicas.py",
        "exact_div(total, self.count * pieces,",
        "exact_div(total, self.count,",
        (REPLICAS + "test_shares_are_consecutive_and_make_up_the_whole",),
        "replicas",
    ),
    Mutation(
        "tfppo/execution/replicas.py",
        '("graph", "xla") if mode == "xla"',
        '("xla", "graph") if mode == "xla"',
        (REPLICAS + "test_shares_are_consecutive_and_make_up_the_whole",),
        "replicas",
    ),
    Mutation(
        "tfppo/execution/replicas.py",
        "return self.process == 0",
        "return self.process == self.processes - 1",
        ("tests/training/test_driver.py::test_a_process_that_trains_along_touches_no_folder",),
        "replicas",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "[a + b for a, b in zip(gradients, slopes, strict=True)]",
        "slopes",
        (LEARNER + "test_micro_batches_add_up_to_the_minibatch",),
        "replicas",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "tf.maximum(masked_sum(ones, minibatch.mask), 1.0)",
        "tf.reduce_sum(ones)",
        (LEARNER + "test_two_updates_equal_the_slow_ones",),
        "replicas",
    ),
    Mutation(
        "tfppo/control/rollouts/gymnasium.py",
        "seed + replicas.process * self.num_envs + first",
        "seed + replicas.process * self.num_envs",
        ("tests/control/envs/test_workers.py::test_halves_of_counting_environments_are_the_whole_in_every_mode",),
        "replicas",
    ),
    Mutation(
        "tfppo/execution/multiworker.py",
        "[self.process * size, (self.count - 1 - self.process) * size]",
        "[(self.count - 1 - self.process) * size, self.process * size]",
        (REPLICAS + "test_two_processes_equal_one",),
        "replicas",
    ),
    Mutation(
        "tfppo/text/rollouts/rollout.py",
        "lambda column: self.replicas.cut(noise(column), index)",
        "lambda column: self.replicas.cut(noise(column), 0)",
        (REPLICAS + "test_two_processes_equal_one",),
        "replicas",
    ),
    Mutation(
        "tfppo/control/rollouts/graph.py",
        "step_seed = fold_in(step_seed, -index)",
        "step_seed = fold_in(step_seed, 0)",
        (
            TRAJECTORY + "test_starts_are_new_in_every_step_and_place",
            REPLICAS + "test_shares_are_consecutive_and_make_up_the_whole",
        ),
        "replicas",
        caught=False,
    ),
    Mutation(
        "tfppo/control/rollouts/gymnasium.py",
        "seed + replicas.process * self.num_envs + first",
        "seed + first",
        (
            COLLECTORS + "test_what_counts_is_the_stream_of_the_environment",
            REPLICAS + "test_shares_are_consecutive_and_make_up_the_whole",
        ),
        "replicas",
        caught=False,
    ),
    # ----- order and permutations
    Mutation(
        "tfppo/ppo/learner.py",
        "permutation(num_items, fold_in(seed, epoch))",
        "permutation(num_items, seed)",
        (LEARNER + "test_every_epoch_visits_every_index_once",),
        "permutation",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "seed = fold_in(self.seed, self.iteration)",
        "seed = self.seed",
        (LEARNER + "test_every_epoch_visits_every_index_once",),
        "permutation",
    ),
    Mutation(
        "tfppo/ops/random.py",
        "tf.bitwise.bitwise_or(keys[index, 0], tf.constant(1, tf.uint32))",
        "keys[index, 0]",
        (RANDOM + "test_permutations_are_permutations_and_equal_however_compiled",),
        "permutation",
    ),
    Mutation(
        "tfppo/ops/random.py",
        "lambda x: tf.reduce_any(x >= outside)",
        "lambda x: tf.reduce_all(x >= outside)",
        (RANDOM + "test_permutations_are_permutations_and_equal_however_compiled",),
        "permutation",
    ),
    Mutation(
        "tfppo/training/pipeline.py",
        "permutation(len(lengths), fold_in(root, number))",
        "permutation(len(lengths), root)",
        ("tests/training/test_pipeline.py::test_every_prompt_comes_once_before_any_comes_again",),
        "permutation",
    ),
    Mutation(
        "tfppo/ops/random.py",
        "_ROUNDS = 6",
        "_ROUNDS = 3",
        (
            RANDOM + "test_minibatches_draw_from_every_subset_as_without_replacement",
            RANDOM + "test_places_of_long_permutations_are_uniform_alone_and_in_pairs",
            RANDOM + "test_neighbours_in_long_permutations_are_any_distance_apart",
        ),
        "permutation",
    ),
    # ----- schedules
    Mutation(
        "tfppo/ppo/schedules.py",
        "(iteration + 1.0) / (self.warmup_iterations + 1.0)",
        "iteration / (self.warmup_iterations + 1.0)",
        (SCHEDULES + "test_warmup_rises_from_above_zero_and_the_decay_takes_the_iterations_after_it",),
        "schedules",
    ),
    Mutation(
        "tfppo/ppo/schedules.py",
        "decay_steps = num_iterations - warmup_iterations",
        "decay_steps = num_iterations",
        (SCHEDULES + "test_warmup_rises_from_above_zero_and_the_decay_takes_the_iterations_after_it",),
        "schedules",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "self.optimizer.learning_rate.assign(learning_rate)",
        "self.optimizer.learning_rate.assign(self.config.learning_rate)",
        (LEARNER + "test_steps_are_as_long_as_the_schedule_says",),
        "schedules",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "approx_kl <= 1.5 * self.config.target_kl",
        "approx_kl <= self.config.target_kl",
        (LEARNER + "test_target_kl_stops_only_above_one_and_a_half_times_itself",),
        "schedules",
    ),
    Mutation(
        "tfppo/control/rollouts/fused.py",
        "(first // interval + 1) * interval",
        "(first // interval + 2) * interval",
        ("tests/control/rollouts/test_fused.py::test_calls_end_where_the_first_interval_does",),
        "schedules",
    ),
    # ----- divergences
    Mutation(
        "tfppo/ops/divergences.py",
        "return tf.math.expm1(log_ratio) - log_ratio",
        "return tf.math.expm1(-log_ratio) + log_ratio",
        (DIVERGENCES + "test_estimators_are_their_formulas",),
        "divergences",
    ),
    Mutation(
        "tfppo/ops/divergences.py",
        "tf.exp(log_p) * (log_p - log_q)",
        "tf.exp(log_q) * (log_q - log_p)",
        (DIVERGENCES + "test_categorical_kl_equals_the_loop_and_tfp",),
        "divergences",
    ),
    Mutation(
        "tfppo/ops/divergences.py",
        "error = tf.clip_by_value(kl / target - 1, -0.2, 0.2)",
        "error = tf.clip_by_value(1 - kl / target, -0.2, 0.2)",
        (DIVERGENCES + "test_the_rule_of_ziegler_equals_the_loop",),
        "divergences",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "return tf.nest.map_structure(inside, batch.old_distribution, evaluation.distribution).kl(",
        "return evaluation.distribution.kl(batch.old_distribution) if batch.mask is not None else (",
        (LEARNER + "test_gradient_of_the_kl_term_equals_finite_differences",),
        "divergences",
    ),
    Mutation(
        "tfppo/ppo/objective.py",
        "return kl_k2(zero_outside(",
        "return approximate_kl(zero_outside(",
        (LEARNER + "test_gradient_of_the_kl_term_equals_finite_differences",),
        "divergences",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "else tf.reduce_mean(batch.reference_kl)",
        "else tf.reduce_sum(batch.reference_kl)",
        (LEARNER + "test_a_rule_steers_by_the_mean_reference_kl_where_the_batch_has_one",),
        "divergences",
    ),
    Mutation(
        "tfppo/ppo/learner.py",
        "state.epoch_kl / tf.cast(num_evaluated, zero.dtype)",
        "state.epoch_kl / num_minibatches",
        (
            LEARNER + "test_kl_rule_sees_the_last_epoch",
            LEARNER + "test_target_kl_skips_the_step_that_goes_too_far_and_all_after_it",
        ),
        "divergences",
        caught=False,
    ),
    # ----- distributions
    Mutation(
        "tfppo/ops/distributions.py",
        "head.sample(random.fold_in(seed, k))",
        "head.sample(seed)",
        (DISTRIBUTIONS + "test_heads_are_sampled_independently",),
        "distributions",
    ),
    Mutation(
        "tfppo/ops/normals.py",
        "self.base.log_prob(actions) - tf.reduce_sum(_log_tanh_slope(actions), axis=-1)",
        "self.base.log_prob(actions) + tf.reduce_sum(_log_tanh_slope(actions), axis=-1)",
        (DISTRIBUTIONS + "test_the_squashed_density_integrates_to_one_over_the_squashed_actions",),
        "distributions",
    ),
    Mutation(
        "tfppo/ops/normals.py",
        "self.mean + tf.exp(self.log_std) * noise",
        "self.mean + self.log_std * noise",
        (DISTRIBUTIONS + "test_normal_samples_have_the_mean_and_the_standard_deviation",),
        "distributions",
    ),
    Mutation(
        "tfppo/control/policies/heads.py",
        "tf.repeat(drawn, interval, axis=0)",
        "tf.concat([drawn] * interval, axis=0)",
        ("tests/control/policies/test_heads.py::test_gsde_noise_stays_for_an_interval",),
        "distributions",
    ),
    # ----- rewards of text
    Mutation(
        "tfppo/text/rollouts/batch.py",
        "last = lengths - 1",
        "last = lengths",
        (TEXT_BATCH + "test_rewards_by_hand",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/rollouts/batch.py",
        "- kl_coeff * rollout.log_ratio",
        "+ kl_coeff * rollout.log_ratio",
        (TEXT_BATCH + "test_rewards_by_hand",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/rollouts/batch.py",
        "tf.cast(~rollout.ended, tf.float32)",
        "tf.cast(rollout.ended, tf.float32)",
        (TEXT_BATCH + "test_rewards_by_hand",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/rollouts/batch.py",
        "tf.concat([values[:, 1:], tf.zeros_like(values[:, :1])], axis=1)",
        "tf.concat([values[:, 1:], values[:, -1:]], axis=1)",
        (TEXT_BATCH + "test_advantages_and_returns_equal_the_slow_ones",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/rollouts/batch.py",
        "masked_whiten(rewards, value_mask, shift_mean=False)",
        "masked_whiten(rewards, mask, shift_mean=False)",
        (TEXT_BATCH + "test_rewards_equal_the_slow_ones",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/rewards/callables.py",
        "- self.mean) / self.std",
        "- self.mean) * self.std",
        (REWARDS + "test_a_scale_by_hand",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/data/codec.py",
        "row[: len(ids)] = ids",
        "row[-len(ids) :] = ids",
        (CODEC + "test_a_prompt_becomes_its_control_token_its_tokens_and_padding",),
        "text-rewards",
    ),
    Mutation(
        "tfppo/text/rewards/reward_model.py",
        "tf.nn.softplus(scores[None, :] - scores[:, None])",
        "tf.nn.softplus(scores[:, None] - scores[None, :])",
        ("tests/text/rewards/test_reward_model.py::test_the_pair_loss_equals_the_slow_one",),
        "text-rewards",
    ),
)
