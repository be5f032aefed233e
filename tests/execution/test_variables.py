"""The state of a run: its variables, their order, and hashes that tell states apart."""

import hashlib

import keras
import numpy as np
import tensorflow as tf

from tfppo.execution.variables import as_tensorflow_variable, digest, named_variables, weights_hash


def test_a_state_is_named_part_by_part_without_the_seeds_of_dropout():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    alone, listed = tf.Variable(1), [tf.Variable(2), tf.Variable(3)]
    named = named_variables({"b": listed, "model": model, "none": [], "optimizer": optimizer, "a": alone})
    expected = {"b/0": listed[0], "b/1": listed[1], "model/0": model.weights[0], "model/1": model.weights[1]}
    expected |= {f"optimizer/{index}": variable for index, variable in enumerate(optimizer.variables)}
    expected |= {"a/0": alone}
    assert list(named) == list(expected) and len(optimizer.variables) >= 2
    assert all(named[name] is variable for name, variable in expected.items())
    assert len(model.variables) > len(model.weights)  # the seed of dropout


def test_a_part_without_weights_has_no_variables():
    dropout = keras.Sequential([keras.Input([2]), keras.layers.Dropout(0.5)])
    assert dropout.variables and not named_variables({"model": dropout})


def test_a_variable_of_keras_stands_for_one_of_tensorflow():
    kernel, own = keras.layers.Dense(3), tf.Variable([1.0])
    kernel.build([None, 2])
    inner = as_tensorflow_variable(kernel.kernel)
    assert isinstance(inner, tf.Variable) and as_tensorflow_variable(own) is own
    inner.assign_add(tf.ones([2, 3]))
    np.testing.assert_array_equal(kernel.kernel.numpy(), inner)


def test_the_digest_is_of_text_types_shapes_and_bits():
    arrays = [np.float32([[1.0, -0.0]]), np.arange(3)]
    told = b"text" + b"<f4(1, 2)" + arrays[0].tobytes() + b"<i8(3,)" + arrays[1].tobytes()
    assert digest(arrays, "text") == hashlib.sha256(told).hexdigest()
    assert digest([]) == hashlib.sha256().hexdigest()


def test_the_hash_changes_with_any_bit_shape_type_or_order():
    one, two = tf.Variable([0.0, 1.0]), tf.Variable([[2.0]])
    same = [tf.Variable([0.0, 1.0]), tf.Variable([[2.0]])]
    others = [
        [tf.Variable([-0.0, 1.0]), two],
        [tf.Variable([0.0, np.nextafter(np.float32(1), 2)]), two],
        [one, tf.Variable([2.0])],
        [tf.Variable([0.0, 1.0], dtype=tf.float64), two],
        [two, one],
        [one],
    ]
    assert weights_hash([one, two]) == weights_hash(same)
    assert len({weights_hash(variables) for variables in [same, *others]}) == 7
