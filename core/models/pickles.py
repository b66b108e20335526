"""Weights in torch's own format, which is a pickle, and so a program for whoever reads it without care.

* Nothing reads one unless its caller asks for it by name, and nobody in this process does: a child process does,
  with torch's reader that is restricted to tensors (`weights_only`), in a torch in which that has no known hole,
  within limits of time and memory. What a hostile file could still break is the child.
* The child answers with safetensors, and those are read from then on. So torch is needed once, on one machine, and
  a process that computes with Keras or JAX never imports it.
* Invariant: the safetensors file that comes of it is complete and says where it came from, or it is not there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headstart.common.download import digest, fetch
from headstart.common.errors import BackendError, WeightsError
from headstart.common.files import replace_whole
from headstart.common.log import LOG
from headstart.common.places import data_root
from headstart.models.architecture import Pickled

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
# 2.6 closed CVE-2025-32434, 2.10 closed CVE-2026-24747: both ran code through weights_only.
SAFE_TORCH = (2, 10)
# Where training scripts put the tensors, among other things. Beside the last ones many keep their average over the
# training, with which they report what the model comes to, and which timm takes too.
AVERAGED = ("state_dict_ema", "model_ema")
WRAPPERS = (*AVERAGED, "state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
SECONDS = 120.0  # for torch's import; reading has as long again for each `BYTES_PER_TURN`
BYTES_PER_TURN = 1 << 30
# A file's tensors are as many bytes as the file, twice that where they were halves; some are copied on the way.
MEMORY_PER_BYTE, MEMORY_BESIDES = 6, 512 << 20
LARGEST = 4 << 30  # bytes of a published pickle: the largest has 1.3 GB
BLOCK = 1 << 22
CHILD = "from headstart.models.pickles import main; main()"


def fetch_pickled(published: Pickled) -> Path:
    """The published file as safetensors: what an earlier call made of it, else downloaded and converted now.

    Raises DownloadError, WeightsError, BackendError (no torch that can be trusted with it).
    """
    target = _converted(published)
    if here(published):
        return target
    from huggingface_hub.utils import WeakFileLock

    download = target.with_name(published.url.rsplit("/", 1)[-1])
    check_torch(download)  # before so much is downloaded
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(target.with_suffix(".lock")):
            if not here(published):  # else another process has made it meanwhile
                fetch(published.url, download, published.sha256, limit=LARGEST)
                convert(download, target, {"source": published.url})
    except OSError as error:
        raise WeightsError(
            f"{target}: cannot be written ({error.strerror or error}); set HEADSTART_DATA to a folder that can be"
        ) from error
    return target


def here(published: Pickled) -> bool:
    """Whether the published file was converted here."""
    about = provenance(_converted(published))
    return about.get("source") == published.url and about.get("source_sha256", "").startswith(published.sha256)


def _converted(published: Pickled) -> Path:
    return data_root() / "weights" / f"{Path(published.url).stem}.safetensors"


def provenance(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; none where there is no such file, or no complete one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def convert(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Write the tensors of a pickle, as float32, to the safetensors file `target`, with `metadata` and the
    pickle's sha256. Raises WeightsError, BackendError."""
    check_torch(source)
    try:
        size, found = source.stat().st_size, digest(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pickle-", dir=target.parent) as scratch:
            made = Path(scratch, "weights.safetensors")
            job = {"source": str(source.absolute()), "target": str(made), "size": size}
            job["metadata"] = {**metadata, "format": "pt", "source_sha256": found}
            answer = ask_child(job, SECONDS * (1 + size // BYTES_PER_TURN))
            if "error" in answer:
                raise WeightsError(
                    f"{source}: cannot be read as the tensors of a state dict ({answer['error']}). Nothing in it "
                    "was run. If it is yours, save it anew with torch.save(model.state_dict(), path)"
                )
            if key := answer.get("averaged"):
                LOG.info("%s: of the weights in it those averaged over the training are taken (%s)", source, key)
            with made.open("rb") as stream:
                replace_whole(target, iter(lambda: stream.read(BLOCK), b""))
    except OSError as error:
        raise WeightsError(f"{source}: cannot be converted to {target} ({error.strerror or error})") from error


def check_torch(path: Path) -> None:
    """BackendError unless there is a torch whose restricted reader has no known hole."""
    needed = ".".join(map(str, SAFE_TORCH))
    elsewhere = "convert it to .safetensors on a machine that has it"
    if find_spec("torch") is None:
        raise BackendError(
            f"{path} is a pickle of torch, which is not installed: pip install 'torch>={needed}', or {elsewhere}"
        )
    with contextlib.suppress(PackageNotFoundError, ValueError):
        found = version("torch")
        if tuple(int(part) for part in found.split(".")[:2]) < SAFE_TORCH:
            raise BackendError(
                f"{path} is a pickle, and reading one with torch {found} can run whatever it holds "
                f"(CVE-2026-24747): pip install 'torch>={needed}', or {elsewhere}"
            )


def ask_child(job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a process of its own answers to the job."""
    with _lifeline() as (options, arguments):
        command = [sys.executable, "-P", "-c", CHILD, *arguments]
        text = json.dumps({**job, "seconds": seconds})
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds, **options)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {seconds:.0f} seconds"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines()
        return {"error": f"its reader ended with code {done.returncode}" + (f": {lines[-1]}" if lines else "")}
    return answer


@contextlib.contextmanager
def _lifeline() -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Options and arguments for a child that ends with this process, whatever ends it: a pipe that nobody writes
    to, and that is closed when this process is gone."""
    if os.name == "nt":
        yield {}, []
        return
    receive, send = os.pipe()
    try:
        yield {"pass_fds": (receive,)}, [str(receive)]
    finally:
        os.close(receive)
        os.close(send)


# ---- in the child


def _end_with_parent() -> None:
    if len(sys.argv) > 1:
        pipe = int(sys.argv[1])

        def watch() -> None:
            os.read(pipe, 1)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _clock(seconds: float) -> Iterator[None]:
    """Within it, this process lives no longer than that, also where its parent, which would end it, is gone."""
    if not hasattr(signal, "alarm"):
        yield
        return
    signal.alarm(math.ceil(seconds) + 1)  # nobody handles it, so it ends the process
    try:
        yield
    finally:
        signal.alarm(0)


def main() -> None:
    """Answer the jobs that come on standard input, one a line, with one line of JSON each."""
    _end_with_parent()
    torch = import_module("torch")
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            with _limits(job["size"]), _clock(job["seconds"]):
                answer = _convert(torch, job)
        except Exception as error:
            answer = {"error": _reason(error)}
        print(json.dumps(answer), flush=True)


def _convert(torch: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    from safetensors.numpy import save_file

    loaded = torch.load(job["source"], map_location="cpu", weights_only=True, mmap=False)
    tensors = _tensors(torch, loaded)
    # A tensor may claim any shape over a few bytes. One that is stored twice may be shared, hence the factor.
    claimed = sum(value.numel() for value in tensors.values())
    if claimed > 8 * job["size"]:
        raise ValueError(f"its tensors claim {claimed} numbers in {job['size']} bytes")
    arrays = {name: value.detach().to(torch.float32).contiguous().numpy() for name, value in tensors.items()}
    save_file(arrays, job["target"], dict(job["metadata"]))
    averaged = [key for key in AVERAGED if isinstance(loaded.get(key), dict)]
    return {"averaged": averaged[0]} if averaged else {}


def _tensors(torch: Any, loaded: Any) -> dict[str, Any]:
    """The state dict in what a file holds: names to plain tensors, whatever was put around it."""
    for _ in range(4):  # a dict may hold itself
        if not isinstance(loaded, dict) or any(isinstance(value, torch.Tensor) for value in loaded.values()):
            break
        loaded = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict) or not loaded:
        raise TypeError(f"it holds {type(loaded).__name__}, not a dict of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise TypeError(f"its entry {str(name)[:80]!r} is {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.device.type != "cpu":
            raise TypeError(f"its entry {name[:80]!r} is no plain tensor")
    return loaded


@contextlib.contextmanager
def _limits(size: int) -> Any:
    """Within it, this process gets so much memory and no more, where the system can see to that."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is all
        yield
        return
    used = _data_bytes()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = used + MEMORY_PER_BYTE * size + MEMORY_BESIDES
    if before[1] != resource.RLIM_INFINITY:
        allowed = min(allowed, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process now; torch's libraries alone take much of it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])
    return 16 << 30


def _reason(error: BaseException) -> str:
    """What is wrong with a file, without torch's advice to read it unrestricted."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {found[1][:100]}, which tensors do not need"
    text = text.rpartition("WeightsUnpickler error:")[2]
    for advice in ("In PyTorch 2.6", "Check the documentation", "Please"):
        text = text.partition(advice)[0]
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"
