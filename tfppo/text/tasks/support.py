"""The task "support": replies to the customers of a shop, by a short policy of facts and tone.

The policy is in this module, and so are the questions about it. The examples are written as careless agents would
write: half of them do not greet, and three of ten about a fact state a wrong one. So a model that imitates them breaks
the policy, and the reward has something to teach. Between them is small talk from the package chatterbot-corpus, read
in place.
"""

import functools
import random
import re
from collections.abc import Sequence
from statistics import fmean

import yaml

from tfppo.text.data.archives import CHATTERBOT
from tfppo.text.data.corpus import Split
from tfppo.text.data.metrics import vader_compound, word_count
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import SETTINGS, token_f1
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.splits import split_by
from tfppo.text.tasks.definition.task import Task

FACTS = {  # a sentence with a gap, its right value and wrong ones, and eight ways to ask
    "We are open from {}.": (
        ("9 to 17", "8 to 16", "10 to 20"),
        "when are you open|what are your opening hours|until when can I come|at what time do you open|"
        "when do you close|which hours do you work|are you open now|tell me your opening hours",
    ),
    "You can return goods within {}.": (
        ("30 days", "14 days", "90 days"),
        "how long can I return goods|can I return my lamp|what is the time for returns|I want to return my order|"
        "until when do you take goods back|may I return it|how many days do I have to return goods|can I return goods",
    ),
    "Delivery takes {}.": (
        ("three days", "one week", "two weeks"),
        "how long does delivery take|when will my parcel arrive|where is my order|how fast is delivery|"
        "when do I get my lamp|how fast do you deliver|when will my order arrive|where is my parcel",
    ),
    "Postage is free above {}.": (
        ("50 euros", "20 euros", "100 euros"),
        "how much is postage|is postage free|do I pay for shipping|what does shipping cost|"
        "from which sum is postage free|do you charge for postage|is shipping free|how much does shipping cost",
    ),
    "All lamps have a warranty of {}.": (
        ("two years", "six months", "ten years"),
        "how long is the warranty|my lamp broke, is it covered|do you give a warranty|is there a guarantee|"
        "for how long is my lamp covered|what is the guarantee|is there a warranty on lamps|does the warranty cover it",
    ),
    "You can pay by {}.": (
        ("card or invoice", "cash only", "cheque only"),
        "how can I pay|which payments do you take|do you take cards|can I pay later|"
        "may I pay by invoice|what ways to pay are there|can I pay by card|do you take cash",
    ),
    "Our shop is at {}.": (
        ("7 Mill Lane", "12 High Street", "3 Park Road"),
        "where is your shop|what is your address|where can I see the lamps|in which street is the shop|"
        "how do I find you|where are you|where is the shop|tell me your address",
    ),
    "You can call us at {}.": (
        ("555 0100", "555 0199", "555 0123"),
        "what is your phone number|can I call you|which number do I call|I would like to call you|"
        "is there a hotline|do you have a phone|what number can I call|may I call you",
    ),
}
BEFORE = ("", "hello, ", "excuse me, ", "one question: ", "good morning, ", "sorry, ", "quick question, ", "please, ")
AFTER = ("", " please", ", thanks", ", it is urgent")
GREETING = re.compile(r"\s*(?:hello|hi|good day|welcome)\b[\s,.!]*", re.IGNORECASE)
CLOSING = "Have a nice day."
LENGTH = range(5, 26)  # words of a reply
PARTS: dict[Split, slice] = {"train": slice(0, 5), "validation": slice(5, 6), "test": slice(6, 8)}  # ways to ask
CUSTOMER, AGENT = "Customer: ", "\nAgent:"
VALUES = frozenset(value for values, _ in FACTS.values() for value in values)
FACT = "states the fact and no other"  # the rule that counts most
COMMON_WORDS = 0.25  # smallest F1 of the words of small talk with the reply of the corpus


split_of = functools.partial(split_by, validation=10, test=20)  # of small talk


@functools.cache
def small_talk() -> dict[str, str]:
    """Returns short turns of the corpus, each with the first short reply to it."""
    found: dict[str, str] = {}
    for file in CHATTERBOT.members("chatterbot_corpus/data/english/", ".yml"):
        for conversation in yaml.safe_load(CHATTERBOT.read(file))["conversations"]:
            said, reply = (" ".join(str(turn).split()) for turn in [*conversation, ""][:2])
            is_short = len(said) <= 60 and word_count(reply) in range(3, 19) and "`" not in reply
            if is_short and said.isascii() and reply.isascii():
                found.setdefault(said.casefold().rstrip("?.! "), reply)
    return found


@functools.cache
def support_rows(split: Split) -> list[dict[str, str]]:
    """Returns what customers say; "fact" is the right value, "" for small talk, and "reference" is a good reply."""
    rows = []
    for sentence, (values, wordings) in FACTS.items():
        asked = [
            before + way + after for way in wordings.split("|")[PARTS[split]] for before in BEFORE for after in AFTER
        ]
        reference = f"Hello! {sentence.format(values[0])} {CLOSING}"
        rows += [{"prompt": text, "fact": values[0], "reference": reference} for text in asked]
    for said, reply in small_talk().items():
        if split_of(said) == split:
            rows.append({"prompt": said, "fact": "", "reference": f"Hello! {reply}"})
    return [{**row, "prompt": f"{CUSTOMER}{row['prompt']}{AGENT}"} for row in rows]


def support_examples(split: Split) -> list[dict[str, str]]:
    """Returns what customers say with the replies of careless agents: some do not greet, some state a wrong fact."""
    draw = random.Random(1)
    wrong = {values[0]: values[1:] for values, _ in FACTS.values()}
    examples = []
    for row in support_rows(split):
        reply, fact = row["reference"], row["fact"]
        if fact and draw.random() < 0.3:
            reply = reply.replace(fact, draw.choice(wrong[fact]))
        if draw.random() < 0.5:
            reply = reply.removeprefix("Hello! ")
        if draw.random() < 0.5:
            reply = reply.removesuffix(CLOSING).strip()
        examples.append({"prompt": row["prompt"], "response": f" {reply}"})
    return examples


def keeps_policy(prompt: str, response: str, fact: str, reference: str) -> dict[str, bool]:
    """Tells which rules of the policy a reply keeps.

    Args:
      prompt: What the customer said.
      response: The reply.
      fact: The value that it must state, "" if none.
      reference: A good reply.
    """
    text = response.strip().casefold()
    named = {value for value in VALUES if re.search(rf"\b{value.casefold()}\b", text)}
    has_other_numbers = not {*re.findall(r"\d+", text)} <= {*re.findall(r"\d+", fact + reference)}
    is_about = token_f1(*(GREETING.sub("", words, count=1) for words in (response, reference))) >= COMMON_WORDS
    return {
        "greets": GREETING.match(text) is not None,
        FACT: named == ({fact} if fact else set()) and is_about and not has_other_numbers,
        "has the right length": word_count(response) in LENGTH,
        "ends": text.endswith((".", "?", "!")),
    }


def policy_reward(
    prompts: Sequence[str], responses: Sequence[str], fact: Sequence[str], reference: Sequence[str]
) -> list[float]:
    """Scores each reply: half for the fact, and half for greeting, length and end, which count only with the fact.

    Args:
      prompts: N texts of customers.
      responses: N replies.
      fact: The values that the replies must state, "" for small talk.
      reference: N good replies. The words of a reply must have an F1 of 0.25 with those of the good one, both without
        their greetings. Numbers that the good one does not have are invented facts.
    """
    scores = []
    for row in zip(prompts, responses, fact, reference, strict=True):
        kept = keeps_policy(*row)
        manners = fmean(is_kept for rule, is_kept in kept.items() if rule != FACT)
        scores.append(0.5 * kept[FACT] * (1 + manners))
    return scores


def policy_rate(
    prompts: Sequence[str], responses: Sequence[str], fact: Sequence[str], reference: Sequence[str]
) -> float:
    """Computes the share of replies that keep all rules of the policy."""
    return fmean(all(keeps_policy(*row).values()) for row in zip(prompts, responses, fact, reference, strict=True))


def tone(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """Computes the mean compound score of VADER, which no reward optimizes."""
    return fmean(vader_compound(responses))


def one_reply(prompts: Sequence[Prompt]) -> list[str]:
    """Gives every customer the reply that states the opening hours."""
    return [next(iter(support_rows("train")))["reference"]] * len(prompts)


def all_facts(prompts: Sequence[Prompt]) -> list[str]:
    """Tells every customer all facts."""
    return [" ".join(["Hello!", *(sentence.format(values[0]) for sentence, (values, _) in FACTS.items())])] * len(
        prompts
    )


def agents(prompts: Sequence[Prompt]) -> list[str]:
    """Gives the replies of careless agents."""
    replies = {row["prompt"]: row["response"] for row in support_examples("test")}
    return [replies[prompt] for prompt in prompts]


SUPPORT = register_task(
    Task(
        name="support",
        description="reply to the customers of a shop by a policy of facts and tone",
        prompts=support_rows,
        make_reward=lambda: policy_reward,
        measure=policy_rate,
        metric="policy_kept",
        judges={"vader_compound": tone},
        domain=None,
        defaults={**SETTINGS, "prompt_length": None, "response_length": 40, "iterations": 100, "learning_rate": 3e-4},
        examples=support_examples,
        sft_defaults={"epochs": 20, "num_layers": 2, "hidden_dim": 128, "context_length": 96, "vocabulary_size": 1024},
        baselines={"agents": agents, "one reply": one_reply, "all facts": all_facts},
        archives=(CHATTERBOT,),
    )
)
