"""Estimates the memory of a text run, to refuse it or to divide its minibatches before it fails.

The estimate is compared with the whole memory of the host, not with what is free, so that a run does not depend on what
else runs.
"""

import os

import keras

from tfppo.errors import UsageError
from tfppo.settings import with_settings
from tfppo.text.config import TextRunConfig
from tfppo.text.models.vocabulary import logits_at_once

FLOAT = 4  # bytes
OPTIMIZER = {"adam": 2 * FLOAT, "adamw": 2 * FLOAT, "rmsprop": FLOAT, "sgd": 0}  # bytes for each trained weight
GRADIENT = FLOAT
PER_LAYER = 34  # values of a layer for each token and unit, Korthikanti et al. 2022, eq. 2, without the attention's
PER_LOGIT = 6  # values for each logit that is held at once: with probabilities and gradients, see benchmarks/memory.py
USED = 0.6  # share of the memory that a run may fill


def host_memory() -> int | None:
    """Returns the memory of the host in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def fixed_memory(parameters: int, config: TextRunConfig) -> int:
    """Estimates the memory of the weights of a run, of their gradients and of the optimizer, in bytes.

    Args:
      parameters: Number of parameters of the language model.
      config: Settings of the run.
    """
    text = config.text
    copies = 1 + text.separate_critic + (not text.lora_rank)  # the reference is a copy without adapters
    trained = parameters * (text.separate_critic + (not text.lora_rank))  # a separate critic has no adapters
    return parameters * copies * FLOAT + trained * (OPTIMIZER[config.ppo.optimizer] + GRADIENT)


def check_memory(parameters: int, config: TextRunConfig, memory: int | None) -> None:
    """Checks that the weights of a run fit into the memory, before they are loaded.

    Args:
      parameters: Number of parameters of the language model.
      config: Settings of the run.
      memory: Memory in bytes; None: unknown, and nothing is checked.

    Raises:
      UsageError: If they do not fit.
    """
    needed = fixed_memory(parameters, config)
    if memory is None or needed <= memory:
        return
    advice = "use a smaller model" if config.text.lora_rank else "set lora_rank, for example --lora-rank 16"
    advice += ", and leave separate_critic out" if config.text.separate_critic else ""
    raise UsageError(
        f"a language model of {parameters / 1e6:.0f}M parameters needs {needed / 1e9:.1f} GB for its weights, their "
        f"gradients, the optimizer and the reference policy; {memory / 1e9:.1f} GB are there: {advice}"
    )


def update_memory(model: keras.Model, sequences: int, tokens: int, rematerialize: bool = False) -> int | None:
    """Estimates the memory of the activations and logits of sequences in an update, in bytes.

    Args:
      model: The language model.
      sequences: Number of sequences that are computed at once.
      tokens: Length of a sequence.
      rematerialize: True: of each layer only the input is kept, and the backward pass computes one layer after another.

    Returns:
      The estimate; None if the sizes of the model are unknown.
    """
    config = model.backbone.get_config() if hasattr(model, "backbone") else {}
    layers, width, vocabulary = (config.get(name) for name in ("num_layers", "hidden_dim", "vocabulary_size"))
    if not (isinstance(layers, int) and isinstance(width, int) and isinstance(vocabulary, int)):
        return None
    positions = sequences * tokens
    activations = positions * width * (layers + PER_LAYER if rematerialize else layers * PER_LAYER)
    return (activations + logits_at_once(positions, vocabulary) * PER_LOGIT) * FLOAT


def choose_micro_batches(model: keras.Model, config: TextRunConfig, tokens: int, memory: int | None) -> int:
    """Chooses the number of micro-batches of a run that does not set it, so that an update fits into the memory.

    The gradient of a minibatch does not depend on it, except for rounding.

    Args:
      model: The language model.
      config: Settings of the run.
      tokens: Length of a prompt and its response.
      memory: Memory in bytes; None: unknown.

    Returns:
      The number: that of the settings if it is above 1 or the memory is unknown, else the smallest that fits.
    """
    size = config.ppo.minibatch_size
    counts = [count for count in range(1, size + 1) if size % count == 0]
    needed = [update_memory(model, size // count, tokens, config.text.rematerialize) for count in counts]
    if config.ppo.num_micro_batches > 1 or memory is None:
        return config.ppo.num_micro_batches
    rest = memory * USED - fixed_memory(int(model.count_params()), config)
    return next((count for count, each in zip(counts, needed, strict=True) if each is None or each <= rest), size)


def fitted(model: keras.Model, config: TextRunConfig, memory: int | None) -> tuple[TextRunConfig, str]:
    """Divides the minibatches of a new run if its memory is too small for a whole one.

    Args:
      model: The language model.
      config: Settings of the run, with `prompt_length`.
      memory: Memory in bytes; None: unknown.

    Returns:
      The settings, and a line that says why they changed; empty if they did not.
    """
    tokens = (config.text.prompt_length or 0) + config.text.response_length
    count = choose_micro_batches(model, config, tokens, memory)
    if count == config.ppo.num_micro_batches:
        return config, ""
    whole = update_memory(model, config.ppo.minibatch_size, tokens, config.text.rematerialize) or 0
    note = (
        f"num_micro_batches is {count}, because a minibatch of {config.ppo.minibatch_size} responses would need about "
        f"{whole / 1e9:.1f} GB at once"
    )
    return with_settings(config, {"num_micro_batches": count}), note
