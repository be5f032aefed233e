"""Measures whole PPO iterations of TRL's PPOTrainer, on a GPT-2 with random weights, on the CPU.

An iteration has a batch of 64 prompts of 16 tokens, 32 sampled tokens per prompt, forward passes of the reference, the
value and the reward model, and 4 epochs of 2 minibatches. The four models have 4 layers x 256, 4 heads and 5,000
tokens, in float32 and without dropout. TRL's gradient checkpointing, which computes each forward pass twice, is off.
The script prints one JSON line per run: the seconds of each iteration after the warm-up, and the response tokens per
second of the median iteration.

    make peers
    .venv/peers/bin/python benchmarks/trl_iteration.py --iterations 10

With `--preset FOLDER` and `--lora-rank 16`, policy and value model are the model in the folder with adapters in the
queries and values; the reference is the policy without adapters. The reward model has one small layer, because the
reward of the other side is a Python function (`benchmarks/smollm2_vs_trl.py`).

trl 1.12.0 is the last release with a PPOTrainer. In its usual configuration, a device batch is a minibatch, and the
optimizer steps once per epoch instead of once per minibatch (trl issue 5645). The gradient work is the same. With
`--step-every minibatch`, the whole batch is a device batch: the minibatches are the same, with a step after each.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import tempfile
import time
import warnings

from shared import peak_bytes

# No network and no notices. The variables must be set before the imports.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1", TRANSFORMERS_VERBOSITY="error"
)
warnings.simplefilter("ignore", FutureWarning)  # transformers warns about names that trl uses


def make_tokenizer(vocabulary_size: int):
    """Makes a tokenizer with two special tokens, both outside the models' vocabulary.

    TRL ends a response before its first padding token. So if the model could sample that token, some responses would be
    shorter. TRL masks padding before a model sees it, so no embedding is looked up for the token.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = WordLevel({"<pad>": vocabulary_size, "<eos>": vocabulary_size + 1}, unk_token="<eos>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="<eos>")


def gpt2_models(arguments: argparse.Namespace) -> dict:
    """Makes policy, reward model and value model of the same size, with random weights."""
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=arguments.vocabulary,
        n_positions=arguments.positions,
        n_embd=arguments.width,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        bos_token_id=None,
        eos_token_id=None,
        num_labels=1,
    )
    reward_model, value_model = GPT2ForSequenceClassification(config), GPT2ForSequenceClassification(config)
    return {"model": GPT2LMHeadModel(config), "reward_model": reward_model, "value_model": value_model}


def adapted_models(arguments: argparse.Namespace) -> dict:
    """Loads policy and value model with adapters, and makes a small reward model."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig
    from transformers import LlamaForSequenceClassification as Classifier

    adapters = LoraConfig(r=arguments.lora_rank, lora_alpha=arguments.lora_rank, target_modules=["q_proj", "v_proj"])
    policy = AutoModelForCausalLM.from_pretrained(arguments.preset, dtype=torch.float32)
    value_model = AutoModelForSequenceClassification.from_pretrained(
        arguments.preset, num_labels=1, dtype=torch.float32
    )
    inject_adapter_in_model(adapters, value_model)
    for name, weight in value_model.named_parameters():
        weight.requires_grad_("lora_" in name or name.startswith("score"))
    small = LlamaConfig(
        vocab_size=policy.config.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
    )
    models = {"model": policy, "value_model": value_model, "reward_model": Classifier(small)}
    return models | {"peft_config": adapters}


def make_trainer(arguments: argparse.Namespace, output_dir: str, callback):
    """Makes TRL's trainer. Without adapters, TRL copies the reference model from the policy."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.manual_seed(arguments.seed)
    models = adapted_models(arguments) if arguments.preset else gpt2_models(arguments)
    vocabulary = models["model"].config.vocab_size
    episodes = arguments.batch * (arguments.warmup + arguments.iterations)
    # One unused batch more, because accelerate steps at every minibatch of the last batch of a dataset.
    prompts = torch.randint(vocabulary, (episodes + arguments.batch, arguments.prompt))
    dataset = Dataset.from_dict({"input_ids": prompts.tolist()})
    accumulated = arguments.minibatches if arguments.step_every == "epoch" else 1
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=output_dir,
            seed=arguments.seed,
            total_episodes=episodes,
            per_device_train_batch_size=arguments.batch // accumulated,
            gradient_accumulation_steps=accumulated,
            num_mini_batches=arguments.minibatches,
            num_ppo_epochs=arguments.epochs,
            local_rollout_forward_batch_size=arguments.batch,
            response_length=arguments.response,
            # No stop token, the default of TRL: every response has the full length. TRL does not search for a stop
            # token and does not truncate. A minimum length would cost TRL a mask over the logits at each token.
            stop_token_id=None,
            temperature=1.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        processing_class=make_tokenizer(vocabulary),
        **models,
        ref_model=None,
        train_dataset=dataset,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(arguments: argparse.Namespace) -> dict:
    import torch
    import trl
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.times = [time.perf_counter()]

        def on_step_end(self, *_, **__):
            self.times.append(time.perf_counter())

    torch.set_num_threads(arguments.threads)
    clock = Clock()
    with tempfile.TemporaryDirectory() as output_dir, contextlib.redirect_stdout(io.StringIO()):
        make_trainer(arguments, output_dir, clock).train()
    seconds = [after - before for before, after in itertools.pairwise(clock.times)][arguments.warmup :]
    return {
        "peer": "trl",
        "trl": trl.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "step_every": arguments.step_every,
        "iterations": len(seconds),
        "seconds": [round(s, 3) for s in seconds],
        "tokens_per_s": round(arguments.batch * arguments.response / statistics.median(seconds), 1),
        "peak_mb": round(peak_bytes() / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"iterations": 10, "warmup": 2, "threads": os.cpu_count(), "seed": 1}
    sizes |= {"batch": 64, "prompt": 16, "response": 32, "minibatches": 2, "epochs": 4}
    sizes |= {"layers": 4, "width": 256, "heads": 4, "vocabulary": 5000, "positions": 128}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--preset", help="folder of a model of Hugging Face; without it, a GPT-2 with random weights")
    parser.add_argument("--lora-rank", type=int, default=16, help="of the adapters, with --preset")
    parser.add_argument("--step-every", choices=("epoch", "minibatch"), default="epoch")
    print(json.dumps(measure(parser.parse_args())), flush=True)


if __name__ == "__main__":
    main()
