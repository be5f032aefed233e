"""Sampling: frequencies, log-probabilities and ends of responses, in eager mode, in a graph and with XLA."""

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode, softmax

from tfppo.text.policy import TokenInputs, response_log_probs
from tfppo.text.rollouts.sampling import StopCondition, gumbel_noise, response_mask, response_positions, sample

END, PAD, LENGTH = 1, 0, 8
SEED = tf.constant([1, 2])
RNG = np.random.default_rng(11)
TABLE = RNG.normal(0.0, 0.8, [6, 6])  # logits of the bigram model; tokens 0 and 1 are sampled like the others
NEVER = -1e8


def draw(model, prompts, lengths, *, length=LENGTH, seed=SEED, end=END, stop=None, stop_after=0, **options):
    noise = gumbel_noise(seed, prompts.shape[0], model.vocabulary_size)
    stop_condition = StopCondition(end, stop, stop_after)
    return sample(model, prompts, lengths, length, noise, stop_condition=stop_condition, **options)


@pytest.fixture(scope="module")
def samples(model, prompts):
    """Samples of each kind of model, in eager mode."""
    return draw(model, *prompts)


def one_prompt(token, rows):
    """Returns many rows with the same prompt of one token."""
    return tf.fill([rows, 1], token), tf.ones([rows], tf.int32)


def kept(samples):
    """Returns the response of each row as a list without padding."""
    return [row[m].tolist() for row, m in zip(samples.responses.numpy(), samples.mask.numpy(), strict=True)]


def full_pass(model, samples, lengths, temperature=1.0):
    """Computes the log-probabilities [B, R] of the responses in one forward pass."""
    return response_log_probs(model, TokenInputs(samples.token_ids, lengths), samples.responses, temperature).numpy()


def frequencies(tokens, size=6):
    return np.bincount(np.reshape(tokens, -1), minlength=size) / np.size(tokens)


def assert_frequencies(tokens, logits, temperature):
    """Asserts that each token is as frequent as probable, within five standard deviations."""
    probabilities = np.array(softmax(logits / temperature))
    tolerance = 5 * np.sqrt(probabilities * (1 - probabilities) / np.size(tokens))
    assert (tolerance < probabilities / 2).all()  # a missing token would be noticed
    assert (np.abs(frequencies(tokens) - probabilities) < tolerance).all()


# ----- Sampled tokens


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_as_frequent_as_the_full_softmax_says(bigram, temperature):
    samples = draw(bigram(TABLE), *one_prompt(3, 50_000), length=2, end=-1, temperature=temperature)
    first, second = samples.responses.numpy().T
    assert_frequencies(first, TABLE[3], temperature)
    for token in frequencies(first).argsort()[-2:]:
        assert_frequencies(second[first == token], TABLE[token], temperature)


def test_positions_have_noise_of_their_own(bigram):
    """With constant logits, the tokens of a row and of a column are independent."""
    logits = np.log([0.5, 0.5, 1e-9, 1e-9, 1e-9, 1e-9])
    samples = draw(bigram(np.tile(logits, [6, 1])), *one_prompt(3, 4000), length=6, end=-1)
    tokens = samples.responses.numpy().astype(float)
    assert set(tokens.reshape(-1)) == {0.0, 1.0}
    assert np.abs(np.corrcoef(tokens.T) - np.eye(6)).max() < 5 / 4000**0.5
    assert len({tuple(row) for row in tokens}) == 2**6


@pytest.mark.representatives(2)
def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(model, samples, prompts):
    again, other = (draw(model, *prompts, seed=tf.constant(seed)) for seed in ([1, 2], [1, 3]))
    for a, b in zip(samples, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (samples.responses != other.responses).numpy().mean() > 0.5


def test_rows_with_the_same_prompt_differ(shared_model):
    responses = draw(shared_model("gpt2"), *one_prompt(3, 8), end=-1).responses.numpy()
    assert len({tuple(row) for row in responses}) == 8


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"jit_compile": True}, marks=pytest.mark.slow)], ids=["graph", "xla"]
)
def test_all_modes_draw_the_same_tokens(model, samples, prompts, options):
    compiled = tf.function(draw, autograph=False, **options)(model, *prompts)
    for name in ("token_ids", "responses", "mask"):
        np.testing.assert_array_equal(getattr(compiled, name), getattr(samples, name))
    np.testing.assert_allclose(compiled.log_probs, samples.log_probs, atol=1e-5)


# ----- Log-probabilities


def test_log_probs_are_those_of_one_full_forward_pass(model, samples, prompts):
    mask = samples.mask.numpy()
    expected = full_pass(model, samples, prompts[1])
    np.testing.assert_allclose(samples.log_probs.numpy()[mask], expected[mask], atol=1e-4)
    assert np.std(expected[mask]) > 0.5
    assert (samples.log_probs.numpy()[~mask] == 0).all() and (~mask).any()


def test_log_probs_are_those_of_the_tempered_distribution(shared_model, prompts):
    model = shared_model("gpt2")
    samples = draw(model, *prompts, temperature=0.7)
    mask = samples.mask.numpy()
    expected = full_pass(model, samples, prompts[1], 0.7)
    np.testing.assert_allclose(samples.log_probs.numpy()[mask], expected[mask], atol=1e-4)
    assert np.abs(full_pass(model, samples, prompts[1], 1.0) - expected)[mask].max() > 0.1


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.5}, {"temperature": 0.0}])
def test_log_probs_are_of_the_full_distribution_however_it_was_cut(shared_model, prompts, options):
    model = shared_model("gpt2")
    samples = draw(model, *prompts, **options)
    mask = samples.mask.numpy()
    expected = full_pass(model, samples, prompts[1])
    np.testing.assert_allclose(samples.log_probs.numpy()[mask], expected[mask], atol=1e-4)
    assert expected[mask].min() < -0.5


# ----- Start and end of a response


def test_prompts_are_kept_and_nothing_stands_behind_the_end(samples, prompts):
    tokens, lengths = prompts
    ended = 0
    for n, length in enumerate(lengths.numpy()):
        row = samples.token_ids.numpy()[n]
        np.testing.assert_array_equal(row[:length], tokens.numpy()[n, :length])
        response = row[length : length + LENGTH].tolist()
        assert (row[length + LENGTH :] == PAD).all()  # a short prompt does not make the response longer
        count = response.index(END) + 1 if END in response else LENGTH
        assert all(token == PAD for token in response[count:])
        np.testing.assert_array_equal(samples.responses[n], response)
        np.testing.assert_array_equal(samples.mask[n], np.arange(LENGTH) < count)
        ended += count < LENGTH
    assert 1 <= ended <= len(lengths) - 2
    assert samples.token_ids.dtype == samples.responses.dtype == tf.int32 and samples.mask.dtype == tf.bool


def test_other_tokens_can_be_end_and_padding(shared_model, prompts):
    samples = draw(shared_model("gpt2"), *prompts, end=7, pad=19)
    rows = kept(samples)
    assert all(7 not in row[:-1] for row in rows) and sum(row[-1] == 7 for row in rows) >= 2
    assert (samples.responses.numpy()[~samples.mask.numpy()] == 19).all()
    for row, response, length in zip(samples.token_ids.numpy(), rows, prompts[1].numpy(), strict=True):
        assert (row[max(prompts[0].shape[1], length + len(response)) :] == 19).all()
    assert any(END in row[:-1] for row in rows)


def test_an_end_within_a_prompt_ends_nothing(bigram):
    model = bigram(np.where(np.arange(6) == 1, NEVER, TABLE))
    prompts = tf.constant([[END, 3, END], [4, 0, 0], [END, 0, 0]])
    samples = draw(model, prompts, tf.constant([3, 1, 1]))
    assert samples.mask.numpy().all()
    np.testing.assert_array_equal(samples.token_ids[0, :3], prompts[0])


def test_what_is_padded_behind_a_prompt_does_not_matter(model, samples, prompts):
    tokens, lengths = prompts
    outside = np.arange(tokens.shape[1]) >= lengths.numpy()[:, None]
    assert outside.any()
    others = draw(model, tf.where(outside, 9, tokens), lengths)
    np.testing.assert_array_equal(others.responses, samples.responses)
    np.testing.assert_allclose(others.log_probs, samples.log_probs, atol=1e-5)


def test_a_prompt_is_answered_alone_as_it_is_among_others(shared_model, prompts):
    """Tested with temperature 0, because the noise depends on the row."""
    tokens, lengths = prompts
    together = draw(shared_model("gpt2"), tokens, lengths, temperature=0.0)
    for n, length in enumerate(lengths.numpy()[:2]):
        alone = draw(shared_model("gpt2"), tokens[n : n + 1, :length], lengths[n : n + 1], temperature=0.0)
        np.testing.assert_array_equal(alone.responses[0], together.responses[n])


def test_a_response_of_one_token_and_a_prompt_of_one_token(shared_model):
    samples = draw(shared_model("gpt2"), *one_prompt(3, 8), length=1)
    assert samples.token_ids.shape == [8, 2] and samples.responses.shape == [8, 1]
    np.testing.assert_array_equal(samples.token_ids[:, 1:], samples.responses)
    assert samples.mask.numpy().all()


def test_no_step_is_taken_that_draws_nothing(bigram):
    """Steps go from the end of the shortest prompt to the end of the longest response, or until all have ended."""
    ends_at_once = np.where(np.arange(6) == END, 50.0, np.zeros([6, 6]))
    never_ends = np.where(np.arange(6) == END, NEVER, np.zeros([6, 6]))
    lengths = tf.constant([2, 4])
    for table, steps in ((ends_at_once, 3), (never_ends, 2 + LENGTH)):
        model = bigram(table)
        draw(model, tf.fill([2, 9], 3), lengths)  # the buffer is much wider than the prompts
        assert model.steps == steps


# ----- Decoding for evaluation: temperature 0, top-k and top-p


def test_temperature_zero_draws_the_most_probable_token(model, prompts):
    samples = draw(model, *prompts, temperature=0.0)
    logits = model.logits(model.hidden_states(samples.token_ids)).numpy()
    for n, (row, length) in enumerate(zip(kept(samples), prompts[1].numpy(), strict=True)):
        assert row == logits[n, length - 1 : length - 1 + len(row)].argmax(-1).tolist()


def test_the_most_probable_token_needs_no_seed(bigram):
    drawn = [draw(bigram(TABLE), *one_prompt(3, 9), temperature=0.0, seed=tf.constant([0, n])) for n in (1, 2)]
    np.testing.assert_array_equal(drawn[0].responses, drawn[1].responses)


def test_low_temperatures_approach_the_most_probable_token(bigram):
    model = bigram(TABLE)
    samples = draw(model, *one_prompt(3, 500), length=1, temperature=0.01)
    assert frequencies(samples.responses)[TABLE[3].argmax()] > 0.99


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_draws_among_the_k_most_probable_as_often_as_their_probabilities_say(bigram, k):
    tokens = draw(bigram(TABLE), *one_prompt(3, 10_000), length=1, end=-1, top_k=k).responses.numpy()
    p = np.array(softmax(TABLE[3]))
    p[p.argsort()[:-k]] = 0.0
    p /= p.sum()
    assert set(np.unique(tokens)) == set(np.flatnonzero(p))
    np.testing.assert_allclose(frequencies(tokens), p, atol=5 * (0.25 / 10_000) ** 0.5)


def test_top_k_of_more_tokens_than_there_are_leaves_out_none(bigram):
    everything = draw(bigram(TABLE), *one_prompt(3, 50))
    np.testing.assert_array_equal(draw(bigram(TABLE), *one_prompt(3, 50), top_k=7).responses, everything.responses)


@pytest.mark.parametrize(
    ("top_p", "count"), [(0.05, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.91, 4), (0.97, 5), (1.0, 6)]
)
def test_top_p_draws_among_the_most_probable_that_reach_the_probability(bigram, top_p, count):
    """The probabilities are 0.4, 0.3, 0.2, 0.05, 0.03 and 0.02 in another order."""
    p = np.array([0.3, 0.02, 0.4, 0.05, 0.2, 0.03])
    model = bigram(np.tile(np.log(p) + 5.0, [6, 1]))
    tokens = draw(model, *one_prompt(3, 2_000), length=1, end=-1, top_p=top_p).responses.numpy()
    most_probable = p.argsort()[::-1][:count]
    assert set(np.unique(tokens)) == set(most_probable)
    expected = np.where(np.isin(np.arange(6), most_probable), p, 0.0)
    np.testing.assert_allclose(frequencies(tokens), expected / expected.sum(), atol=5 * (0.25 / 2_000) ** 0.5)


def test_top_p_is_of_the_tempered_distribution(bigram):
    """At temperature 0.5 the probabilities 0.4, 0.3, 0.3 are squared and normalized, so that 0.4 becomes 0.47."""
    p = np.array([0.4, 0.3, 0.3, 1e-9, 1e-9, 1e-9])
    model = bigram(np.tile(np.log(p), [6, 1]))
    for temperature, expected in ((1.0, {0, 1, 2}), (0.5, {0})):
        tokens = draw(model, *one_prompt(3, 300), length=1, end=-1, top_p=0.45, temperature=temperature).responses
        assert set(np.unique(tokens)) == expected


# ----- Masks and positions


@every_mode
def test_the_mask_reaches_up_to_and_including_the_first_end(compiled):
    responses = RNG.integers(0, 5, [40, 7])
    responses[0] = 3  # no end
    responses[1, 0] = END
    expected = np.array([[END not in row[:t] for t in range(7)] for row in responses.tolist()])
    mask = compiled(lambda tokens: response_mask(tokens, StopCondition(END)))(tf.constant(responses, tf.int32))
    assert mask.dtype == tf.bool
    np.testing.assert_array_equal(mask, expected)
    assert expected[0].all() and expected[1].sum() == 1 and (responses[expected] == END).sum() > 10


@every_mode
@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_response_is_cut_at_the_first_stop_token_from_an_index_on(compiled, after):
    """Statement 36. The end token ends a response at any index."""
    responses = RNG.integers(0, 5, [40, 7])
    responses[0] = 4  # only stop tokens
    responses[1], responses[2] = 3, [4, 4, END, 4, 4, 4, 4]
    lengths = []
    for row in responses.tolist():
        ends = [t for t, token in enumerate(row) if token == END or (token == 4 and t >= after)]
        lengths.append(min([*ends, 6]) + 1)
    mask = compiled(lambda tokens: response_mask(tokens, StopCondition(END, 4, after)))(
        tf.constant(responses, tf.int32)
    )
    np.testing.assert_array_equal(mask, np.arange(7) < np.array(lengths)[:, None])
    assert lengths[:3] == [after + 1, 7, min(after, 2) + 1]


@pytest.mark.parametrize("after", [0, 4])
def test_sampling_stops_at_a_stop_token_from_an_index_on(bigram, after):
    """The index counts from the start of the response. A stop token in the prompt or too early ends nothing."""
    likely = np.where(np.arange(6) == END, NEVER, TABLE)
    prompts, lengths = tf.constant([[4, 3, 4], [4, 0, 0]] * 50), tf.constant([3, 1] * 50)
    samples = draw(bigram(likely), prompts, lengths, length=8, stop=4, stop_after=after)
    stopped = 0
    for row, whole, length in zip(kept(samples), samples.token_ids.numpy(), lengths.numpy(), strict=True):
        stops = [t for t, token in enumerate(row) if token == 4 and t >= after]
        assert len(row) == (stops[0] + 1 if stops else 8)
        assert (whole[length + len(row) :] == PAD).all()
        stopped += len(row) < 8
    assert stopped > 30
    assert any(4 in row[:after] for row in kept(samples)) == (after > 0)


def test_responses_lie_right_behind_their_prompts():
    assert response_positions(tf.constant([3, 1]), 4).numpy().tolist() == [[3, 4, 5, 6], [1, 2, 3, 4]]
