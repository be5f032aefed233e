"""The responses of training, which a run keeps as compressed JSON lines, so that reward hacking can be seen afterwards.

The file is a sequence of gzip members, one for each iteration. Programs such as zcat read it as one text. If a process
is killed while it writes, the last member is incomplete. `read_rollouts` leaves it out, and a resumed run writes the
iteration again.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfppo.errors import UsageError, one_line
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.rollouts.rollout import TextRollout
from tfppo.training.run_folder import ROLLOUTS

MEGABYTE = 10**6
END_MARK = gzip.compress(b"", mtime=0)  # a member without content, the last one of a file that has reached its limit
BLOCK = 2**20  # bytes that are read at once


class RolloutFile:
    """Appends the responses of each iteration to a file, up to a largest size.

    Once the responses of an iteration do not fit, neither these nor later ones are kept, and a line is printed. A mark
    at the end of the file says so to a resumed run, which then keeps the same iterations as an uninterrupted one.

    Args:
      folder: Folder of the run.
      text: Settings of the run: the largest size and the penalty of a missing end.
      codec: Decodes the responses.
      prompts: The training prompts, to which `prompt_indices` of a rollout refers.
    """

    def __init__(self, folder: Path, text: TextConfig, codec: PromptCodec, prompts: Sequence[str]):
        self._path = folder / ROLLOUTS
        self._text = text
        self._codec = codec
        self._prompts = prompts
        self._path.parent.mkdir(exist_ok=True)
        self._is_full = self._path.exists() and _tail(self._path, len(END_MARK)) == END_MARK

    def append(self, iteration: int, rollout: TextRollout) -> None:
        """Appends the responses of an iteration, unless the file is full or becomes too large with them.

        Args:
          iteration: Number of the iteration, from 0.
          rollout: The responses.
        """
        if self._is_full:
            return
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows(iteration, rollout))
        member = gzip.compress("".join(lines).encode(), compresslevel=6, mtime=0)
        with self._path.open("ab") as file:
            self._is_full = file.tell() + len(member) + len(END_MARK) > self._text.save_rollouts * MEGABYTE
            file.write(END_MARK if self._is_full else member)
        if self._is_full:
            print(
                f"{self._path} has reached {self._text.save_rollouts} megabytes, so the responses of iteration "
                f"{iteration + 1} and later are not kept: give a new run a larger --save-rollouts",
                flush=True,
            )

    def _rows(self, iteration: int, rollout: TextRollout) -> Iterator[dict[str, Any]]:
        """Yields the values of each response, as `read_rollouts` describes them."""
        texts = self._codec.decode_masked(rollout.responses.numpy(), rollout.mask.numpy())
        columns = (rollout.prompt_indices, rollout.raw_scores, rollout.scores, rollout.ended)
        sums = rollout.log_ratio.numpy().sum(axis=1)  # [B]
        values = zip(texts, sums.tolist(), *(column.numpy().tolist() for column in columns), strict=True)
        for text, kl, index, score, scaled_score, ended in values:
            yield {
                "iteration": iteration,
                "prompt": self._prompts[index],
                "response": text,
                "score": _plain(score),
                "scaled_score": _plain(scaled_score),
                "missing_end_penalty": 0.0 if ended else self._text.missing_end_penalty,
                "kl": _plain(kl),
                "ended": ended,
            }


def read_rollouts(folder: Path | str) -> Iterator[dict[str, Any]]:
    """Reads the responses of a text run's training.

    The keys of a response are:

    - `iteration`: number of the iteration, from 0 as in `metrics.csv`
    - `prompt`, `response`: texts
    - `score`: of the reward, without any scaling
    - `scaled_score`: after normalization and clipping
    - `missing_end_penalty`: subtracted from `scaled_score`, 0 if the response ended
    - `kl`: sum over the tokens of log pi - log pi_ref, in nats
    - `ended`: False if the response was cut off at `response_length` tokens

    A score that was not finite is None.

    Args:
      folder: Folder of the run.

    Returns:
      An iterator over the responses in their order. It holds one iteration in memory at a time.

    Raises:
      UsageError: If the run has kept no responses, or their file is damaged.
    """
    path = Path(folder) / ROLLOUTS
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no {ROLLOUTS}: give the folder of a text run that was trained with save_rollouts above 0"
        )
    return _rows_in(path)


def _rows_in(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for member in _members(path):
            yield from map(json.loads, member.splitlines())
    except (zlib.error, ValueError) as error:
        raise UsageError(f"{path} is damaged ({one_line(error)}): restore it from a copy") from None


def _members(path: Path) -> Iterator[bytes]:
    """Yields the contents of the complete members of a gzip file.

    Raises:
      zlib.error: If the file is damaged.
    """
    with path.open("rb") as file:
        pieces, member = [], zlib.decompressobj(wbits=31)
        data = file.read(BLOCK)
        while data:
            pieces.append(member.decompress(data))
            data = member.unused_data
            if member.eof:
                yield b"".join(pieces)
                pieces, member = [], zlib.decompressobj(wbits=31)
            data = data or file.read(BLOCK)


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def _plain(number: float) -> float | None:
    """Returns a number with seven digits, the precision of float32, or None if it is not finite."""
    return float(f"{number:.7g}") if math.isfinite(number) else None
