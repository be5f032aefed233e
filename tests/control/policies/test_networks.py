"""Actor and critic: initial weights, seeds, outputs for every head, shared layers, saved files, and users' models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from support.refusal import refusal

from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import (
    WithLogStd,
    WithStateDependentStd,
    fit_actor,
    fit_critic,
    make_actor,
    make_critic,
    make_shared,
)

BOX = spaces.Box(-1.0, 1.0, [6])
ACTIONS = spaces.Discrete(3)
MOTORS = spaces.Box(-1.0, 1.0, [2, 2])
FEATURES = 8  # width of the last hidden layer
HEADS = {
    "discrete": make_head(ACTIONS),
    "multi_discrete": make_head(spaces.MultiDiscrete([[2, 3], [4, 5]])),
    "multi_binary": make_head(spaces.MultiBinary(3)),
    "normal": make_head(MOTORS),
    "squashed": make_head(MOTORS, "squashed"),
    "gsde": make_head(MOTORS, "gsde", FEATURES),
}
OBSERVED = spaces.Dict(
    wheel=spaces.Discrete(3, start=1),
    camera=spaces.Box(0, 255, [2, 36, 36], np.uint8),
    levers=spaces.MultiDiscrete([[2, 3], [2, 2]], start=[[1, 0], [0, -1]]),
    arm=spaces.Box(-1, 1, [2, 2]),
    action_mask=spaces.MultiBinary(3),
)
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
INPUTS = tf.constant(np.random.default_rng(0).normal(size=[5, 6]), tf.float32)


def observations(space, count=5):
    space.seed(0)
    rows = [space.sample() for _ in range(count)]
    dtypes = {"wheel": "int32", "camera": "uint8", "levers": "int32", "arm": "float32", "action_mask": "int32"}
    return {key: tf.constant(np.stack([row[key] for row in rows]), dtypes[key]) for key in space}


def dense_layers(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]


def test_weights_are_orthogonal_with_their_gains_and_biases_zero():
    for model, gain in ((make_actor(BOX, ACTIONS, (16, 8)), 0.01), (make_critic(BOX, (16, 8)), 1.0)):
        layers = dense_layers(model)
        for layer, expected in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
            kernel = layer.kernel.numpy().astype(float)
            gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
            np.testing.assert_allclose(gram, expected**2 * np.eye(len(gram)), atol=1e-5 * expected**2)
            assert not layer.bias.numpy().any()


def test_shapes_layers_and_activations():
    actor, critic = make_actor(BOX, ACTIONS, (16, 8), "relu"), make_critic(BOX, (5,), "elu")
    assert actor.output_shape == (None, 3) and critic.output_shape == (None, 1)
    assert [(layer.units, layer.activation.__name__) for layer in dense_layers(actor)] == [
        (16, "relu"),
        (8, "relu"),
        (3, "linear"),
    ]
    assert [(layer.units, layer.activation.__name__) for layer in dense_layers(critic)] == [(5, "elu"), (1, "linear")]


def test_images_are_flattened():
    critic = make_critic(spaces.Box(0.0, 1.0, [4, 4, 2]), (8,))
    assert critic(np.ones([5, 4, 4, 2], np.float32)).shape == (5, 1)


def test_networks_are_separate_and_start_from_different_weights():
    actor, critic = make_actor(BOX, ACTIONS, (16,), seed=3), make_critic(BOX, (16,), seed=3)
    assert not {id(v) for v in actor.variables} & {id(v) for v in critic.variables}
    assert not np.allclose(actor.weights[0].numpy(), critic.weights[0].numpy())


def test_layers_of_equal_shape_start_from_different_weights():
    first, second, _ = dense_layers(make_critic(spaces.Box(-1.0, 1.0, [8]), (8, 8)))
    assert not np.allclose(first.kernel.numpy(), second.kernel.numpy())


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_a_seed_fixes_the_weights(seed):
    same, again, other = (make_actor(BOX, ACTIONS, (8,), seed=s).get_weights() for s in (seed, seed, seed + 1))
    for a, b in zip(same, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(same[0], other[0])


# ----- Outputs for every head


@every_head
def test_actors_start_near_zero_with_the_outputs_that_the_head_wants(head):
    """Logits and means are small for every observation, so that no action is preferred."""
    outputs = make_actor(BOX, head, (16, FEATURES), seed=1)(INPUTS)
    numbers = outputs[0] if head is HEADS["gsde"] else outputs
    assert numbers.shape == [5, head.num_outputs]
    means = numbers[:, : getattr(head, "num_actions", None)]  # or all logits
    assert 0 < np.abs(means).max() < 0.1
    actions, distribution = head.act(outputs, head.noise([5], tf.constant([1, 2])))
    assert distribution.log_prob(actions).shape == [5]


def test_the_head_of_an_action_space_is_its_usual_one():
    assert make_actor(BOX, ACTIONS, (4,)).output_shape == (None, 3)
    assert make_actor(BOX, MOTORS, (4,)).output_shape == (None, 8)


@pytest.mark.parametrize("log_std_init", [0.0, -1.5])
@pytest.mark.parametrize("name", ["normal", "squashed"])
def test_log_std_is_a_weight_a_dimension_whatever_the_state(name, log_std_init):
    actor = make_actor(BOX, HEADS[name], (16,), log_std_init=log_std_init)
    np.testing.assert_array_equal(actor(INPUTS)[:, 4:], np.full([5, 4], log_std_init, np.float32))
    (log_std,) = [v for v in actor.trainable_variables if v.name == "log_std"]
    log_std.assign([1.0, 2.0, 3.0, 4.0])
    outputs = actor(INPUTS)
    np.testing.assert_array_equal(outputs[:, 4:], [[1.0, 2.0, 3.0, 4.0]] * 5)
    assert (outputs[0, :4] != outputs[1, :4]).numpy().all()


# ----- gSDE


@pytest.mark.parametrize("log_std_init", [0.0, -1.5])
def test_gsde_starts_from_the_norm_of_the_features(log_std_init):
    actor = make_actor(BOX, HEADS["gsde"], (16, FEATURES), log_std_init=log_std_init)
    features = keras.Model(actor.inputs, dense_layers(actor)[-1].input)(INPUTS).numpy()
    outputs, scales = actor(INPUTS)
    expected = np.repeat(features[..., np.newaxis] * np.exp(log_std_init), 4, axis=-1)  # [B, L, D]
    np.testing.assert_allclose(scales, expected, rtol=1e-5)
    std = np.exp(log_std_init) * np.linalg.norm(features, axis=-1)
    np.testing.assert_allclose(np.exp(outputs[:, 4:]), np.repeat(std[:, np.newaxis], 4, axis=-1), rtol=1e-4)


def test_the_std_of_gsde_has_no_gradient_into_the_features():
    layer = WithStateDependentStd()
    means, features = tf.ones([5, 2]), INPUTS
    layer.build([means.shape, features.shape])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([means, features])
        outputs, scales = layer([means, features])
    assert tape.gradient([outputs, scales], features) is None
    np.testing.assert_array_equal(tape.gradient(outputs, means), np.ones([5, 2]))
    for given in (outputs, scales):
        assert (tape.gradient(given, layer.log_std.value) != 0).numpy().all()
    actor = make_actor(BOX, HEADS["gsde"], (FEATURES,))
    trunk, last = (layer.kernel.value for layer in dense_layers(actor))
    with tf.GradientTape(persistent=True) as tape:
        outputs, _ = actor(INPUTS)
        means, log_std = outputs[:, :4], outputs[:, 4:]
    zero = tape.gradient(log_std, [trunk, last], unconnected_gradients="zero")
    assert not any(slope.numpy().any() for slope in zero)
    assert all(slope.numpy().any() for slope in tape.gradient(means, [trunk, last]))


def test_features_of_zero_leave_gsde_finite():
    layer = WithStateDependentStd()
    with tf.GradientTape() as tape:
        outputs, scales = layer([tf.zeros([3, 2]), tf.zeros([3, FEATURES])])
    assert np.isfinite(outputs).all() and not scales.numpy().any()
    assert np.isfinite(tape.gradient(outputs, layer.log_std.value)).all()


# ----- Shared layers


@pytest.mark.parametrize("name", ["discrete", "normal", "gsde"])
def test_a_shared_trunk_is_one_set_of_variables(name):
    head = HEADS[name]
    actor, critic = make_shared(BOX, head, (16, FEATURES), seed=3, log_std_init=-1.0)
    trunk = [v for layer in dense_layers(actor)[:2] for v in layer.weights]
    assert [id(v) for v in trunk] == [id(v) for layer in dense_layers(critic)[:2] for v in layer.weights]
    policy = ActorCriticPolicy(actor, critic, head)
    variables = policy.trainable_variables
    expected = {id(v) for model in (actor, critic) for v in model.trainable_variables}
    assert len(variables) == len(expected) == 4 + 4 + (name != "discrete")
    assert {id(v) for v in variables} == expected
    if name == "normal":
        np.testing.assert_array_equal(actor(INPUTS)[:, 4:], np.full([5, 4], -1.0))
    before = critic(INPUTS).numpy()
    trunk[0].assign(trunk[0] * 2.0)  # changes the actor and the critic
    assert np.abs(critic(INPUTS) - before).max() > 1e-3


@every_head
def test_a_shared_trunk_evaluates_as_actor_and_critic_do(head):
    """One pass evaluates both, and both send gradients to the trunk."""
    actor, critic = make_shared(BOX, head, (FEATURES,))
    policy = ActorCriticPolicy(actor, critic, head)
    actions, distribution = policy.act(INPUTS, policy.noise([5], tf.constant([1, 2])))
    trunk = dense_layers(actor)[0].kernel.value
    with tf.GradientTape(persistent=True) as tape:
        evaluation = policy.evaluate_actions(INPUTS, actions)
        apart = distribution.log_prob(actions), tf.squeeze(critic(INPUTS), axis=-1)
        of_actor = head.distribution(actor(INPUTS)).log_prob(actions)
    np.testing.assert_array_equal(evaluation.log_probs, apart[0])
    np.testing.assert_array_equal(evaluation.values, apart[1])
    np.testing.assert_array_equal(evaluation.entropies, distribution.entropy())
    slopes = tape.gradient(evaluation.log_probs, trunk), tape.gradient(evaluation.values, trunk)
    np.testing.assert_allclose(slopes[0], tape.gradient(of_actor, trunk), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes[1], tape.gradient(apart[1], trunk), rtol=1e-5, atol=1e-7)
    assert all(slope.numpy().any() for slope in slopes)


def test_a_shared_trunk_starts_from_the_weights_of_the_actor_and_the_output_of_the_critic():
    """The gains are 0.01 at the logits and 1 at the value."""
    actor, critic = make_shared(BOX, HEADS["discrete"], (16,), seed=2)
    for model, alone in ((actor, make_actor(BOX, ACTIONS, (16,), seed=2)), (critic, make_critic(BOX, (16,), seed=2))):
        np.testing.assert_array_equal(dense_layers(model)[-1].kernel, dense_layers(alone)[-1].kernel)
    np.testing.assert_array_equal(actor.get_weights()[0], make_actor(BOX, ACTIONS, (16,), seed=2).get_weights()[0])


# ----- Files


@every_head
def test_actors_survive_a_file(head, tmp_path):
    space = OBSERVED if head is HEADS["discrete"] else BOX  # the mask has three actions
    inputs = observations(space) if space is OBSERVED else INPUTS
    actor = make_actor(space, head, (FEATURES,), log_std_init=-0.5)
    actor.set_weights([w + 0.1 for w in actor.get_weights()])
    actor.save(tmp_path / "actor.keras")
    loaded = keras.models.load_model(tmp_path / "actor.keras")
    for a, b in zip(tf.nest.flatten(loaded(inputs)), tf.nest.flatten(actor(inputs)), strict=True):
        np.testing.assert_array_equal(a, b)
    critic = make_critic(space, (FEATURES,))
    policies = [ActorCriticPolicy(model, critic, head) for model in (actor, loaded)]
    noise = policies[0].noise([5], tf.constant([1, 2]))
    np.testing.assert_array_equal(policies[1].act(inputs, noise)[0], policies[0].act(inputs, noise)[0])


@pytest.mark.parametrize("shared", [False, True])
def test_critics_survive_a_file(shared, tmp_path):
    actor, critic = make_shared(OBSERVED, HEADS["discrete"], (8,)) if shared else (None, make_critic(OBSERVED, (8,)))
    critic.save(tmp_path / "critic.keras")
    loaded = keras.models.load_model(tmp_path / "critic.keras")
    inputs = observations(OBSERVED)
    np.testing.assert_array_equal(loaded(inputs), critic(inputs))
    assert np.std(critic(inputs)) > 1e-3


@pytest.mark.parametrize("layer", [WithLogStd(-0.7), WithStateDependentStd(-0.7)], ids=lambda x: type(x).__name__)
def test_layers_come_back_from_their_config(layer):
    again = type(layer).from_config(layer.get_config())
    shape = (None, 3) if isinstance(layer, WithLogStd) else [(None, 3), (None, 4)]
    again.build(shape)
    np.testing.assert_array_equal(again.log_std, np.full(again.log_std.shape, -0.7, np.float32))
    assert again.log_std.shape == ((3,) if isinstance(layer, WithLogStd) else (4, 3)) and again.log_std.trainable


# ----- Users' models


def own(*widths, inputs=6):
    return keras.Sequential([keras.Input([inputs]), *(keras.layers.Dense(width) for width in widths)])


@pytest.mark.parametrize(
    ("name", "width"), [("discrete", 3), ("multi_discrete", 14), ("multi_binary", 6), ("normal", 8)]
)
def test_an_actor_whose_outputs_fit_stays_as_it_is(name, width):
    model = own(4, width)
    assert fit_actor(model, BOX, HEADS[name]) is model


@pytest.mark.parametrize("name", ["normal", "squashed"])
def test_an_actor_that_gives_means_gets_log_standard_deviations(name):
    model = own(7, 4)
    actor = fit_actor(model, BOX, HEADS[name], -0.5)
    np.testing.assert_array_equal(actor(INPUTS), np.concatenate([model(INPUTS), np.full([5, 4], -0.5)], axis=-1))
    kept = {id(v) for v in model.trainable_variables}
    (new,) = [v for v in actor.trainable_variables if id(v) not in kept]
    assert new.name == "log_std" and len(actor.trainable_variables) == len(kept) + 1


def test_an_actor_of_a_dict_keeps_its_inputs():
    """The user's actor and critic share a trunk."""
    inputs = {name: keras.Input([width], name=name) for name, width in (("b", 2), ("a", 3))}
    hidden = keras.layers.Dense(5)(keras.ops.concatenate([inputs["b"], inputs["a"]], axis=-1))
    model = keras.Model(inputs, keras.layers.Dense(4)(hidden))
    space = spaces.Dict(a=spaces.Box(-1, 1, [3]), b=spaces.Box(-1, 1, [2]), unused=spaces.Discrete(2))
    critic = fit_critic(keras.Model(inputs, keras.layers.Dense(1)(hidden)), space)
    actor = fit_actor(model, space, HEADS["normal"])
    given = {"a": tf.ones([5, 3]), "b": tf.zeros([5, 2])}
    np.testing.assert_array_equal(actor(given)[:, :4], model(given))
    assert set(actor.input) == {"a", "b"}
    policy = ActorCriticPolicy(actor, critic, HEADS["normal"])
    evaluation = policy.evaluate_actions(given, tf.zeros([5, 4]))
    np.testing.assert_array_equal(evaluation.values, critic(given)[:, 0])
    np.testing.assert_array_equal(evaluation.distribution.mean, model(given))
    assert len(policy.trainable_variables) == 2 + 2 + 2 + 1


def gsde_actor(num_features=FEATURES):
    inputs = keras.Input([6])
    features = keras.layers.Dense(num_features, "tanh")(inputs)
    return keras.Model(inputs, WithStateDependentStd()([keras.layers.Dense(4)(features), features]))


def test_an_actor_may_end_in_the_layer_of_gsde():
    model = gsde_actor()
    assert fit_actor(model, BOX, HEADS["gsde"]) is model


def unknown():
    """A model whose output shape is unknown before the first call."""
    return keras.Sequential([keras.layers.Dense(3)])


@pytest.mark.parametrize(
    ("name", "make", "named"),
    [
        ("discrete", lambda: own(4), ["(None, 4)", "[B, 3]"]),
        ("multi_discrete", lambda: own(4), ["(None, 4)", "[B, 14]"]),
        ("normal", lambda: own(5), ["(None, 5)", "[B, 8]", "[B, 4]"]),
        ("gsde", lambda: own(4), ["(None, 4)", "(None, 8, 4)", "WithStateDependentStd"]),
        ("gsde", lambda: gsde_actor(7), ["(None, 7, 4)", "(None, 8, 4)"]),
        ("discrete", gsde_actor, ["(None, 8, 4)", "[B, 3]"]),
        ("discrete", unknown, ["actor", "keras.Input"]),
        ("discrete", lambda: print, ["actor", "Keras model"]),
    ],
    ids=["discrete", "multi_discrete", "normal", "gsde", "gsde_features", "two_outputs", "unbuilt", "no_model"],
)
def test_actors_that_do_not_fit_are_refused(name, make, named):
    text = refusal(fit_actor, make(), BOX, HEADS[name])
    assert all(part in text for part in named), text


def test_critics_that_do_not_give_one_value_are_refused():
    model = own(4, 1)
    assert fit_critic(model, BOX) is model
    vector = keras.Sequential([keras.Input([6]), keras.layers.Dense(1), keras.layers.Reshape(())])
    assert "(None, 2)" in refusal(fit_critic, own(2), BOX) and "Dense(1)" in refusal(fit_critic, own(2), BOX)
    assert "(None,)" in refusal(fit_critic, vector, BOX)
    sequence = keras.Sequential([keras.Input([6]), keras.layers.Reshape((6, 1)), keras.layers.Dense(1)])
    assert "(None, 6, 1)" in refusal(fit_critic, sequence, BOX)
    assert "critic" in refusal(fit_critic, unknown(), BOX) and "keras.Input" in refusal(fit_critic, unknown(), BOX)


IMAGE = spaces.Box(0, 255, [36, 36, 3], np.uint8)
PAIR = spaces.Dict(a=spaces.Box(-1, 1, [3]), b=spaces.Discrete(2))


def named(**shapes):
    """A model of a dictionary of inputs."""
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    flat = [keras.layers.Flatten()(x[..., None]) for x in inputs.values()]
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]))


@pytest.mark.parametrize(
    ("make", "space", "given", "wanted"),
    [
        (lambda: own(3, inputs=5), BOX, "(None, 5)", "(None, 6)"),
        (lambda: own(3), IMAGE, "(None, 6)", "(None, 36, 36, 3)"),
        (lambda: own(3), PAIR, "(None, 6)", "{'a': (None, 3), 'b': (None,)}"),
        (lambda: named(a=[3], b=[2]), PAIR, "{'a': (None, 3), 'b': (None, 2)}", "{'a': (None, 3), 'b': (None,)}"),
        (lambda: named(a=[3], c=[]), PAIR, "'c': (None,)", "'b': (None,)"),
        (lambda: named(a=[6]), BOX, "{'a': (None, 6)}", "(None, 6)"),
    ],
    ids=["width", "image", "no_dictionary", "part", "name", "dictionary"],
)
def test_models_with_other_inputs_are_refused(make, space, given, wanted):
    for fit, name in ((fit_critic, "critic"), (lambda *both: fit_actor(*both, HEADS["discrete"]), "actor")):
        text = refusal(fit, make(), space)
        assert text.startswith(f"the {name}'s inputs have shape") and given in text and wanted in text, text
        assert text.endswith("change its keras.Input")


def test_inputs_of_any_size_fit():
    inputs = keras.Input([None, None, 3])
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    assert fit_actor(keras.Model(inputs, keras.layers.Dense(3)(pooled)), IMAGE, HEADS["discrete"])
    assert fit_actor(keras.Model([x := keras.Input([6])], keras.layers.Dense(3)(x)), BOX, HEADS["discrete"])
    assert fit_actor(named(a=[3]), PAIR, HEADS["discrete"])  # it does not use b


@pytest.mark.parametrize("layer", [keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.5)])
def test_layers_that_differ_in_training_are_warned_of(layer):
    inner = keras.Sequential([keras.Input([4]), layer()])
    model = keras.Sequential([keras.Input([6]), keras.layers.Dense(4), inner, keras.layers.Dense(3)])
    with pytest.warns(UserWarning, match="has layers of type (BatchNormalization|Dropout)"):
        fit_actor(model, BOX, HEADS["discrete"])
    np.testing.assert_array_equal(model(INPUTS), model(INPUTS))  # without noise
