"""XLA's persistent cache: what was compiled in one run is read from the disk in the next. TensorFlow takes its settings
from the environment when it is imported, so that all of this comes before."""

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
NVIDIA_DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
MACHINE = ("/proc/driver/nvidia/version", "/proc/driver/nvidia/gpus/*/information", "/proc/cpuinfo")
MACHINE_LINES = ("NVRM", "Model:", "flags", "Features")  # the driver, each GPU's model, what the processor can do
LEAST_FREE_BYTES = 2**28  # TensorFlow ends the run when the disk is full
FIELDS = (b"\x0a", b"\x12", b"\x1a")  # of an entry, a protocol buffer: its key, its program before and after compiling


def has_nvidia_driver() -> bool:
    """Returns whether an NVIDIA driver is there."""
    return any(Path(path).exists() for path in NVIDIA_DRIVER)


def keep_compiled_programs() -> None:
    """Tells XLA to keep compiled programs in a folder, by a flag behind those that are in TF_XLA_FLAGS.

    By default the GPU's, where there is an NVIDIA driver, in the user's cache folder; where that cannot be used,
    everything is compiled again each time. The environment variable TFPPO_XLA_CACHE says otherwise: "off", or a folder,
    which then keeps the CPU's programs too. A cache that TF_XLA_FLAGS names already is left alone.

    TensorFlow ends a run that reads a damaged entry, and reads those of other versions and machines: so each of these
    has its own folder below, and entries that are not whole are removed.

    Raises:
      UsageError: if a folder is asked for that cannot be written.
    """
    flags, wanted = os.environ.get("TF_XLA_FLAGS", "").strip(), os.environ.get(VARIABLE, "").strip()
    is_file = flags and not flags.startswith("-")  # the flags are in a file of the user's
    if wanted.lower() in OFF or "persistent_cache" in flags or is_file or not (wanted or has_nvidia_driver()):
        return
    folder = (Path(wanted).expanduser() if wanted else _user_cache() / "tfppo" / "xla").absolute() / _machine()
    try:
        _prepare(folder)
    except OSError as error:
        if wanted:
            problem = f"{VARIABLE} is {wanted}, which cannot be used ({error})"
            raise UsageError(f"{problem}: name another folder, or off") from None
        return
    cache = f"--tf_xla_persistent_cache_directory='{folder}'"
    devices = [] if wanted else ["--tf_xla_persistent_cache_device_types=GPU"]
    os.environ["TF_XLA_FLAGS"] = " ".join([*([flags] if flags else []), cache, *devices])


def _user_cache() -> Path:
    """Returns the cache folder of the XDG base directory specification, which ignores a relative path."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"


def _machine() -> str:
    """Names what compiled programs depend on: TensorFlow's version, the GPUs and their driver, the processor."""
    lines = set()
    for pattern in MACHINE:
        for path in Path("/").glob(pattern.lstrip("/")):
            with contextlib.suppress(OSError):
                lines |= {line for line in path.read_text().splitlines() if line.startswith(MACHINE_LINES)}
    return f"tensorflow-{version('tensorflow')}-{hashlib.sha256(repr(sorted(lines)).encode()).hexdigest()[:12]}"


def _prepare(folder: Path) -> None:
    """Makes the folder and removes damaged entries. Raises OSError if the folder cannot be used."""
    if "'" in str(folder):  # no flag could name it
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
    """Returns whether the fields of an entry follow one another to the end of the file, without reading them."""
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
