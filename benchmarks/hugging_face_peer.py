"""Writes tiny random Hugging Face models and the logits of transformers, and checks exports; see hugging_face.py.

Usage: python benchmarks/hugging_face_peer.py make FOLDER
       python benchmarks/hugging_face_peer.py check FOLDER
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import peft
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = ["A film", "the film the film and a joy", "It is a joy.", "Not good, not bad", "bad films and good films"]
OTHER_TEXTS = ["It is a joy.", "the film and a joy", "Not good, not bad", " bad films\nand good 1999 films"]
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = ["<pad>", "<bos>", "<eos>", START, END, PAD, "<think>", "</think>"]
SPECIAL += ["<|begin_of_text|>", "<|end_of_text|>"]  # of SmolLM3
SIZES = {
    **{"vocab_size": 304, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-3},
}
GEMMA = SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
EXPERTS = SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
GPT2 = {"vocab_size": 304, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA3_ROPE = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
CASES = {  # name of the folder: architecture, settings
    "gemma": ("Gemma", SIZES | {"head_dim": 8}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma3": ("Gemma3", GEMMA | {"num_hidden_layers": 7}),  # every sixth layer attends without a window
    "gpt2": ("GPT2", GPT2),
    "llama": ("Llama", SIZES | {"rope_theta": 500.0}),
    "llama-tied": ("Llama", SIZES | {"tie_word_embeddings": True}),
    "llama-rope": ("Llama", SIZES | {"rope_parameters": LLAMA3_ROPE}),
    "mixtral": ("Mixtral", SIZES | {"sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mistral": ("Mistral", SIZES | {"sliding_window": 4}),
    "qwen2": ("Qwen2", SIZES | {"tie_word_embeddings": True}),
    "qwen2-untied": ("Qwen2", SIZES),
    "qwen2_moe": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 8}),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | {"head_dim": 8}),
    "smollm3": ("SmolLM3", SIZES | {"pad_token_id": 0, "no_rope_layers": [1, 0]}),
}
SENTENCE_PIECES = ("gemma", "gemma2", "gemma3", "mistral", "mixtral")


def make_model(kind: str, settings: dict) -> torch.nn.Module:
    """Makes a model whose weights are all random, biases and normalization scales included."""
    config = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def write_tokenizer(folder: Path, name: str) -> None:
    """Writes a tokenizer of byte pairs, or of pieces of sentences."""
    if name in SENTENCE_PIECES:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 10),
            model_writer=model,
            vocab_size=60,
            hard_vocab_limit=False,
            user_defined_symbols=SPECIAL[1:],
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            minloglevel=2,
        )
        (folder / "tokenizer.model").write_bytes(model.getvalue())
        tokens = {"bos_token": "<bos>", "eos_token": "<eos>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
        return
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer, learner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    learner.train_from_iterator(TEXTS, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=learner, bos_token=START, eos_token=END, pad_token=PAD
    )
    tokenizer.save_pretrained(folder)


def compute(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(ids)).logits.numpy()


def check(folder: Path) -> dict[str, object]:
    """Loads an export of tfppo for transformers, and one for PEFT, and returns the differences."""
    found: dict[str, object] = {}
    exported, adapters = folder / "exported", folder / "adapters"
    if not exported.is_dir():
        return found
    base, info = transformers.AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not any(info.values()), info
    expected = np.load(exported / "logits.npz")
    found["exported_difference"] = float(np.abs(compute(base, expected["ids"]) - expected["logits"]).max())
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    tokens = json.loads((exported / "tokens.json").read_text())
    found["same_tokens"] = [tokenizer(text).input_ids for text in OTHER_TEXTS] == tokens
    if adapters.is_dir():
        expected = np.load(adapters / "logits.npz")
        model = peft.PeftModel.from_pretrained(base, adapters)
        found["adapters_difference"] = float(np.abs(compute(model, expected["ids"]) - expected["logits"]).max())
    return found


def main() -> None:
    """Writes all folders, or checks what was exported into them."""
    command, place = sys.argv[1], Path(sys.argv[2])
    if command == "check":
        for folder in place.iterdir():
            (folder / "found.json").write_text(json.dumps(check(folder)))
        return
    for name, (kind, settings) in CASES.items():
        folder = place / name
        model = make_model(kind, settings)
        model.save_pretrained(folder)
        write_tokenizer(folder, name)
        ids = np.random.default_rng(0).integers(3, 250, [2, 12])
        np.savez(folder / "logits.npz", ids=ids, logits=compute(model, ids))


if __name__ == "__main__":
    main()
