"""A tiny random language model of each KerasHub family that generates text, with a tokenizer of the family."""

import functools
import io
import json
from typing import Any

import keras
import keras_hub
import numpy as np
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tfppo.text.data.tokenizer import vocabulary_and_merges

VOCABULARY = 23
GPT = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "intermediate_dim": 24}
LLAMA = {"num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
GEMMA = LLAMA | {"head_dim": 8}
EXPERTS = {"num_experts": 4, "top_k": 2}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 4}  # shorter than the sequences of the tests
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "partial_rotary_factor": 0.5,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # class without CausalLM, and settings of the backbone
    "GPT2": ("GPT2", GPT | {"max_sequence_length": 32}),
    "OPT": ("OPT", GPT | {"max_sequence_length": 32}),
    "GPTNeoX": ("GPTNeoX", GPT | {"max_sequence_length": 32, "rotary_percentage": 0.5}),
    "Bloom": ("Bloom", GPT),
    "Falcon": ("Falcon", {k if k != "num_heads" else "num_attention_heads": v for k, v in GPT.items()}),
    "Llama": ("Llama", LLAMA),
    "Llama tied": ("Llama", LLAMA | {"tie_word_embeddings": True}),
    "Llama3": ("Llama3", LLAMA),
    "Llama3 tied": ("Llama3", LLAMA | {"tie_word_embeddings": True}),
    "Mistral": ("Mistral", LLAMA | {"sliding_window": 4}),
    "Mixtral": ("Mixtral", LLAMA | EXPERTS | {"sliding_window": 4}),
    "Phi3": ("Phi3", LLAMA),
    "Gemma": ("Gemma", GEMMA),
    "Gemma2": (
        "Gemma",
        GEMMA
        | WINDOW
        | {"use_post_ffw_norm": True, "use_post_attention_norm": True}
        | {"attention_logit_soft_cap": 5.0, "final_logit_soft_cap": 3.0},
    ),
    "Gemma3": (
        "Gemma3",
        GEMMA | WINDOW | {"image_size": 8, "use_post_ffw_norm": True, "use_post_attention_norm": True},
    ),
    "Qwen": ("Qwen", LLAMA | {"tie_word_embeddings": False}),
    "Qwen tied": ("Qwen", LLAMA | {"tie_word_embeddings": True}),
    "Qwen3": ("Qwen3", GEMMA),
    "Qwen3.5": ("Qwen3_5", GEMMA | LINEAR),
    "QwenMoe": ("QwenMoe", LLAMA | EXPERTS | {"moe_intermediate_dim": 8, "shared_expert_intermediate_dim": 8}),
    "Qwen3Moe": ("Qwen3Moe", GEMMA | EXPERTS | {"moe_intermediate_dim": 8}),
    "Qwen3.5Moe": (
        "Qwen3_5Moe",
        {k: v for k, v in GEMMA.items() if k != "intermediate_dim"}
        | LINEAR
        | EXPERTS
        | {"moe_intermediate_dim": 8, "shared_expert_intermediate_size": 8},
    ),
    "SmolLM3": (
        "SmolLM3",
        {k if k != "num_query_heads" else "num_attention_heads": v for k, v in LLAMA.items()}
        | {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "layer_norm_epsilon": 1e-6}
        | {"rope_layer_enabled_list": [True, False], "layer_types": ["full_attention", "full_attention"]}
        | {"max_position_embeddings": 64, "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    ),
    "GptOss": ("GptOss", LLAMA | EXPERTS | {"sliding_window": 4, "head_dim": 8}),
}

TEXTS = ["A film", "the film the film and a joy", "It is a joy.", "Not good, not bad", "bad films and good films"]
SPECIAL = [  # of all families, so that each tokenizer class finds its own
    "<pad>", "<s>", "</s>", "<bos>", "<eos>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
]  # fmt: skip
TOKENIZERS = {"Gemma3": {"has_vision_tokens": False}, "Qwen3_5": {"has_vision_tokens": False}}
TOKENIZERS["Qwen3_5Moe"] = TOKENIZERS["Qwen3_5"]


def make_tokenizer(name: str) -> keras_hub.models.Tokenizer:
    """Makes a small tokenizer of a family: byte pairs, or pieces of sentences, as the family has them."""
    kind = FAMILIES[name][0]
    tokenizer_class = getattr(keras_hub.models, f"{kind}Tokenizer")
    settings = TOKENIZERS.get(kind, {})
    if issubclass(tokenizer_class, keras_hub.tokenizers.SentencePieceTokenizer):
        return tokenizer_class(_sentence_pieces(), **settings)
    return tokenizer_class(*byte_pairs(), **settings)


@functools.cache
def _sentence_pieces() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 10),
        model_writer=model,
        vocab_size=80,
        model_type="unigram",
        user_defined_symbols=[token for token in SPECIAL if token not in ("<pad>", "<s>", "</s>")],
        **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "pad_piece": "<pad>"},
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def byte_pairs() -> tuple[dict[str, int], list[str]]:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(TEXTS, trainer)
    return vocabulary_and_merges(json.loads(learner.to_str()))


def make_family(name: str, seed: int = 0, scale: float = 0.3, **settings: Any) -> keras_hub.models.CausalLM:
    """Makes a tiny language model of a family. All weights are random, also biases and normalization scales.

    Args:
      name: A key of `FAMILIES`.
      seed: Seed of the weights.
      scale: Standard deviation of the weights; large, so that probabilities differ clearly.
      **settings: More settings of the backbone, such as `dtype`.
    """
    kind, defaults = FAMILIES[name]
    keras.utils.set_random_seed(seed)
    backbone_class = getattr(keras_hub.models, f"{kind}Backbone")
    model_class = getattr(keras_hub.models, f"{kind}CausalLM")
    model = model_class(
        backbone=backbone_class(**{"vocabulary_size": VOCABULARY} | defaults | settings), preprocessor=None
    )
    perturb(model, scale, seed)
    return model


def perturb(model: keras.Model, scale: float, seed: int) -> None:
    """Adds random numbers to all weights, so that no bias or scale hides behind a 0 or a 1."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed_generator" not in weight.path:
            weight.assign(keras.ops.convert_to_numpy(weight) + rng.normal(0.0, scale, weight.shape))
