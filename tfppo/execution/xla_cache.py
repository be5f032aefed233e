"""The persistent cache of XLA: a program that one run compiled is read from disk in the next.

TensorFlow reads the settings of the cache from the environment at import, so this module must not import TensorFlow.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from tfppo.errors import UsageError

VARIABLE = "TFPPO_XLA_CACHE"  # "off", or a folder
OFF = ("off", "no", "false", "0")
NVIDIA_DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # one exists if there is a driver
MACHINE = ("/proc/driver/nvidia/version", "/proc/driver/nvidia/gpus/*/information", "/proc/cpuinfo")
MACHINE_LINES = ("NVRM", "Model:", "flags", "Features")  # driver, GPU models, processor features
LEAST_FREE_BYTES = 2**28  # TensorFlow ends the run if the disk is full
FIELDS = (b"\x0a", b"\x12", b"\x1a")  # fields of a cache entry (a protocol buffer)


def has_nvidia_driver() -> bool:
    """Returns whether the machine has an NVIDIA driver."""
    return any(Path(path).exists() for path in NVIDIA_DRIVER)


def keep_compiled_programs() -> None:
    """Turns on XLA's persistent cache by a flag that is appended to TF_XLA_FLAGS.

    By default, the cache is on only if there is an NVIDIA driver. It then holds the programs of the GPU, in the user's
    cache folder. If that folder cannot be used, XLA compiles every program in each run. The environment variable
    TFPPO_XLA_CACHE changes this: "off" turns the cache off, and a folder holds the programs of the GPU and of the CPU.
    A cache that TF_XLA_FLAGS already names is not changed.

    TensorFlow ends a run if it reads a damaged entry, and it also reads the entries of other versions and machines. The
    cache therefore has a subfolder for each version and machine, and damaged entries are removed.

    Raises:
      UsageError: If TFPPO_XLA_CACHE names a folder that cannot be used.
    """
    flags, wanted = os.environ.get("TF_XLA_FLAGS", "").strip(), os.environ.get(VARIABLE, "").strip()
    is_file = flags and not flags.startswith("-")  # TF_XLA_FLAGS names a file with the flags
    if wanted.lower() in OFF or "persistent_cache" in flags or is_file or not (wanted or has_nvidia_driver()):
        return
    folder = (Path(wanted).expanduser() if wanted else user_cache() / "tfppo" / "xla").absolute() / _machine()
    try:
        _prepare(folder)
    except OSError as error:
        if wanted:
            problem = f"{VARIABLE} is {wanted}, a folder that cannot be used ({error})"
            raise UsageError(f"{problem}: set another folder, or off") from None
        return
    cache = f"--tf_xla_persistent_cache_directory='{folder}'"
    devices = [] if wanted else ["--tf_xla_persistent_cache_device_types=GPU"]
    os.environ["TF_XLA_FLAGS"] = " ".join([*([flags] if flags else []), cache, *devices])


def user_cache() -> Path:
    """Returns the user's cache folder by the XDG base directory specification, which ignores relative paths."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"


def _machine() -> str:
    """Names what compiled programs depend on: TensorFlow's version, the GPUs, their driver and the processor."""
    lines = set()
    for pattern in MACHINE:
        for path in Path("/").glob(pattern.lstrip("/")):
            with contextlib.suppress(OSError):
                lines |= {line for line in path.read_text().splitlines() if line.startswith(MACHINE_LINES)}
    return f"tensorflow-{version('tensorflow')}-{hashlib.sha256(repr(sorted(lines)).encode()).hexdigest()[:12]}"


def _prepare(folder: Path) -> None:
    """Makes the folder and removes damaged entries.

    Raises:
      OSError: If the folder cannot be used.
    """
    if "'" in str(folder):  # the flag quotes the folder with this character
        raise OSError(f"{folder} has a quotation mark in its name")
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
        raise OSError(f"{folder} has less than {LEAST_FREE_BYTES // 2**20} MiB left")
    for entry in folder.glob("*.pb"):
        with entry.open("rb") as stream:
            whole = _is_whole(stream, entry.stat().st_size)
        if not whole:
            entry.unlink(missing_ok=True)


def _is_whole(stream: BinaryIO, size: int) -> bool:
    """Checks that the fields of an entry follow one another to the end of the file. It does not read their contents."""
    for field in FIELDS:
        if stream.read(1) != field:
            return False
        length, shift = 0, 0
        while byte := stream.read(1):
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        stream.seek(length, os.SEEK_CUR)
    return stream.tell() == size
