"""The tokenizer: KerasHub's GPT-2 tokenizer with byte pairs that the package `tokenizers` learns.

KerasHub splits text into words before it applies the byte pairs. In a tf.data graph it uses GPT-2's pattern. Outside it
should use Llama 3's, but release 0.32 passes that pattern as a literal text and does not split at all. The byte pairs
learned here cross the word boundaries of neither pattern, so that the tokens rarely differ (for example in 'tis and
1984). All other modules encode text outside the graph.
"""

import json
from collections.abc import Iterable
from typing import Any

import keras_hub
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tfppo.errors import UsageError
from tfppo.text.data.corpus import DOMAINS

PAD = "<|pad|>"
END = "<|endoftext|>"
WORDS = (  # Llama 3's pattern, as in KerasHub; ByteLevel (below) also splits by GPT-2's
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def control_token(domain: str) -> str:
    """Returns the control token of a domain, which is put before each text of it ("CTRL", Keskar et al. 2019)."""
    return f"<|{domain}|>"


def check_control_tokens(tokenizer: keras_hub.models.Tokenizer, where: object) -> None:
    """Checks that a tokenizer has the control tokens of the corpus and our end token.

    Args:
      tokenizer: A KerasHub tokenizer.
      where: The preset, for the error.

    Raises:
      UsageError: If one of the tokens is missing.
    """
    missing = {END, *map(control_token, DOMAINS)} - set(tokenizer.get_vocabulary())
    if missing:
        raise UsageError(
            f"the tokenizer of preset {where} has no {', '.join(sorted(missing))}; pretraining and reward models need "
            "these tokens: give a preset that tfppo pretrain made"
        )


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> keras_hub.models.GPT2Tokenizer:
    """Trains a byte-level byte-pair tokenizer (Sennrich et al. 2016).

    The first six tokens are special: padding (0, as in KerasHub's GPT-2), the end token, and a control token for each
    domain. A text is encoded with one of them only if it contains its name, such as `<|movie|>`. The next 256 tokens
    stand for bytes.

    Args:
      texts: Texts to train on.
      vocabulary_size: Largest number of tokens; few texts may have fewer byte pairs.

    Returns:
      The tokenizer.

    Raises:
      UsageError: If the texts have no word of at least two characters.
    """
    special = [PAD, END, *map(control_token, DOMAINS)]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encodable = (text.encode("utf-8", "ignore").decode() for text in texts)  # the codec refuses others
    learner.train_from_iterator(encodable, trainer)
    vocabulary, merges = vocabulary_and_merges(json.loads(learner.to_str()))
    if not merges:
        raise UsageError(
            "the texts have no word of at least two characters; a tokenizer is learned from words: give more text, or "
            "a trained model"
        )
    return keras_hub.models.GPT2Tokenizer(vocabulary, merges, unsplittable_tokens=special)


def vocabulary_and_merges(tokenizer: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Returns the tokens and the byte pairs of a tokenizer of the package `tokenizers`, as KerasHub expects them.

    Args:
      tokenizer: Content of its file `tokenizer.json`. Its pairs are texts or, in newer files, lists of two texts.
    """
    model = tokenizer["model"]
    return model["vocab"], [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
