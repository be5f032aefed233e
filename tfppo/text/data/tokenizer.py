"""Words to numbers and back: KerasHub's GPT-2 tokenizer, its byte pairs learnt with `tokenizers`.

In a tf.data graph KerasHub splits text into words by GPT-2's pattern, outside by Llama 3's; or means to: release 0.32
hands that pattern on as a literal, and splits nothing. Byte pairs learnt here cross the boundaries of neither, so
that it hardly matters: 'tis and 1984 are what may differ. Text is always encoded outside the graph.
"""

import json
from collections.abc import Iterable

import keras_hub
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from tfppo.text.data.corpus import DOMAINS

PAD = "<|pad|>"
END = "<|endoftext|>"
WORDS = (  # Llama 3's pattern, as KerasHub has it; ByteLevel adds GPT-2's
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def control_token(domain: str) -> str:
    """The token that stands before a text and says of what kind it is (Keskar et al. 2019, "CTRL")."""
    return f"<|{domain}|>"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> keras_hub.models.GPT2Tokenizer:
    """A byte-level byte-pair tokenizer [Sennrich et al. 2016] learnt from texts.

    Its first tokens are padding (0, as KerasHub's GPT-2 has it), the end of a text, and a control token a domain. A
    text gets them only where it spells one out, like "<|movie|>".

    Args:
      texts: what is learnt from.
      vocabulary_size: tokens at most; texts with fewer pairs give fewer. The first 6 are those, 256 stand for bytes.
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
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return keras_hub.models.GPT2Tokenizer(model["vocab"], merges, unsplittable_tokens=special)
