"""Archives, images and folders as an enemy would make them, and judges that let the library read them: each ends
in a typed error or a right result, in bounded memory and time, and nothing outside the folder that was named is
touched."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import resource
import shutil
import struct
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from faults.workload import peak_nbytes
from PIL import Image

from headstart import data as datasets
from headstart.common.errors import DataError, ImageError
from headstart.data import cifar, decode, sources

MEMORY_NBYTES = 768 << 20  # above what the process holds before the first case; 50 million pixels take 350 MB
SECONDS_A_CASE = 20.0  # of the processor, as others may be using it

FOLDER = "flower_photos"
BATCHES = "cifar-10-batches-bin"
PNG_BYTES = io.BytesIO()
Image.new("RGB", (4, 4), "red").save(PNG_BYTES, "PNG")


# ------------------------------------------------------------------------------------------------------- archives

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"hostile", kind: bytes = tarfile.REGTYPE, **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content if kind == tarfile.REGTYPE else b""


def packed(members: list[Member], format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=format, compresslevel=1) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if content else None)
    return stream.getvalue()


def sound(folder: str) -> list[Member]:
    """What would be read, were there nothing hostile beside it."""
    if folder == FOLDER:
        return [member(f"{folder}/{name}/1.png", PNG_BYTES.getvalue()) for name in ("a", "b")]
    batch = bytes([1]) + bytes(3072)
    names = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    return [member(f"{folder}/{name}.bin", batch) for name in names]


def blocks(members: list[Member]) -> bytes:
    """As they lie in an archive, without its end."""
    return b"".join(
        info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512) for info, content in members
    )


def raw(content: bytes, repeat: int = 1) -> bytes:
    """Compressed by hand: `content` so many times."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as out:
        for _ in range(repeat):
            out.write(content)
    return stream.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def archives(folder: str, outside: Path, mebibytes: int) -> Iterator[tuple[str, bytes]]:
    """A hundred hostile archives around a sound one, whose folder is `folder`; `outside` is what they are after,
    and `mebibytes` what the bombs among them inflate to."""
    names = [
        "../escaped",
        "../../escaped",
        f"{folder}/../escaped",
        f"{folder}/../../../escaped",
        f"./{folder}/./../..//escaped",
        str(outside / "escaped"),
        f"/{outside}/escaped",
        "..",
        f"{folder}/a/../../escaped",
        "..\\..\\escaped",
    ]
    kinds = {
        "file": tarfile.REGTYPE,
        "folder": tarfile.DIRTYPE,
        "symbolic link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
    }
    for name, (kind, code) in itertools.product(names, kinds.items()):
        hostile = member(name, kind=code, linkname=str(outside / "canary"))
        yield f"{kind} {name}", packed([*sound(folder), hostile])
    targets = [str(outside), "../" * 5 + str(outside).lstrip("/"), "..", "/", f"../../{outside.name}"]
    for target, code in itertools.product(targets, (tarfile.SYMTYPE, tarfile.LNKTYPE)):
        link = member(f"{folder}/link", kind=code, linkname=target)
        through = member(f"{folder}/link/escaped")
        yield f"{code!r} link to {target}, and a file through it", packed([link, through, *sound(folder)])
        over = member(f"{folder}/link")
        yield f"{code!r} link to {target}, and a file over it", packed([*sound(folder), link, over])
    for code in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b"Z"):
        special = member(f"{folder}/a/device.png", kind=code, devmajor=1, devminor=5)
        yield f"special file {code!r}", packed([*sound(folder), special])
    yield (
        "chain of links",
        packed(
            [member(f"{folder}/{i}", kind=tarfile.SYMTYPE, linkname=f"{i + 1}") for i in range(50)]
            + [member(f"{folder}/50", kind=tarfile.SYMTYPE, linkname=str(outside)), member(f"{folder}/0/escaped")]
        ),
    )
    yield "links in a circle", packed(
        [member(f"{folder}/x", kind=tarfile.SYMTYPE, linkname="y"), member(f"{folder}/y", kind=tarfile.SYMTYPE,
         linkname="x"), member(f"{folder}/x/z")]
    )  # fmt: skip
    yield "links beyond the length of a path (CVE-2025-4517)", packed([*long_way_out(outside), *sound(folder)])
    inner = f"{folder}/a"
    for i, name in enumerate(
        ["x" * 255, "x" * 256, "x" * 5000, "a/" * 2000 + "b", "new\nline", "\x1b[2J\x07", "\u202egnp.exe", "-rf",
         "~",
         "$(touch escaped)", "\udcff\udcfe.png", "nul", " ", "a\\b", "\U0001f600" * 60]
    ):  # fmt: skip
        yield f"odd name {i}", packed([*sound(folder), member(f"{inner}/{name}.png", PNG_BYTES.getvalue())])
    again = [member(f"{inner}/1.png", PNG_BYTES.getvalue()) for _ in range(200)]
    yield "one name two hundred times", packed([*sound(folder), *again])
    yield "a file, then a folder of that name", packed([member(folder), *sound(folder)])
    yield "a folder, then a file of that name", packed([*sound(folder), member(inner)])
    yield (
        "unreadable folders",
        packed(
            [
                member(folder, kind=tarfile.DIRTYPE, mode=0),
                member(inner, kind=tarfile.DIRTYPE, mode=0),
                *sound(folder),
            ]
        ),
    )
    yield "set-user-id, owned by root", packed([*sound(folder), member(f"{folder}/su", mode=0o6777, uid=0)])
    for size in (1 << 20, 1 << 33, 1 << 40, (1 << 62) + 1):
        yield f"a file that claims {size} bytes", raw(header(f"{folder}/data_batch_1.bin", size) + bytes(1024))
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE, tarfile.GNUTYPE_SPARSE):
        yield f"a header {kind!r} of 4 GiB", raw(header("x", 1 << 32, kind) + bytes(4096))
    yield "a header of 128 MiB that is there", bomb_in_a_header()
    yield "a bomb in a file", bomb(header(f"{folder}/data_batch_1.bin", mebibytes << 20), mebibytes)
    yield "a bomb beside", bomb(blocks(sound(folder)) + header("x", mebibytes << 20), mebibytes)
    yield "a bomb of nothing", bomb(b"", mebibytes)
    yield "two hundred thousand files", raw(header(f"{folder}/x", 0), 200_000)
    nested = header("x", 512, tarfile.XHDTYPE) + pax("comment", "y")
    yield "five thousand headers upon each other", raw(nested, 5000)
    for key, value in [
        ("size", "-1"), ("size", str(1 << 62)), ("size", "x"), ("path", "../escaped"),
        ("path", str(outside / "escaped")), ("linkpath", str(outside)), ("GNU.sparse.major", "1"),
        ("GNU.sparse.map", "0,-1,x"), ("mtime", "1e999"), ("hdrcharset", "BINARY"),
        ("path", "\x00"), ("GNU.sparse.name", "../escaped"),
    ]:  # fmt: skip
        body = pax(key, value)
        first = header("x", len(body.rstrip(b"\0")), tarfile.XHDTYPE) + body
        file = PNG_BYTES.getvalue()
        rest = header(f"{inner}/pax.png", len(file)) + file + bytes(-len(file) % 512)
        yield f"pax header {key}={value[:20]!r}", raw(blocks(sound(folder)) + first + rest + bytes(1024))
    whole = packed(sound(folder))
    for length in (0, 1, 9, 20, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        yield f"cut to {length} bytes", whole[:length]
    for place in range(20, len(whole) - 8, max(1, len(whole) // 8)):
        yield f"a bit flipped at {place}", whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
    yield "no archive", b"<html>404</html>" * 100
    yield "not compressed", gzip.decompress(whole)
    yield "compressed twice", gzip.compress(whole, 1)


def long_way_out(outside: Path) -> list[Member]:
    """A path of links that is longer than `realpath` follows, by which tarfile's own filter was deceived."""
    part, steps, members, path = "d" * 247, "abcdefghijklmnop", [], ""
    for step in steps:
        members.append(member(os.path.join(path, part), kind=tarfile.DIRTYPE, mode=0o755))  # noqa: PTH118
        members.append(member(os.path.join(path, step), kind=tarfile.SYMTYPE, linkname=part))  # noqa: PTH118
        path = os.path.join(path, part)  # noqa: PTH118
    top = "/".join(steps) + "/" + "l" * 254
    members.append(member(top, kind=tarfile.SYMTYPE, linkname="../" * len(steps)))
    up = "/".join([".."] * 30)
    members.append(member("escape", kind=tarfile.SYMTYPE, linkname=f"{top}/{up}{outside}"))
    members.append(member("escape/escaped"))
    return members


def pax(key: str, value: str) -> bytes:
    """One record, padded to a block."""
    body = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(body) + 1
    while length != len(str(length)) + len(body):
        length = len(str(length)) + len(body)
    record = str(length).encode() + body
    return record + bytes(-len(record) % 512)


def bomb_in_a_header() -> bytes:
    """A pax header of as many short records as possible: parsed, each takes many times its bytes."""
    records = b"".join(f"{len(f'{i:08x}') + 6} {i:08x}=a\n".encode() for i in range(1 << 16))
    return raw(header("x", len(records) * 128, tarfile.XHDTYPE)) + raw(records) * 128


def bomb(first: bytes, mebibytes: int) -> bytes:
    """`first`, then zeros; made block by block, as gzip members may follow each other."""
    return raw(first) + raw(bytes(1 << 20)) * mebibytes


# Which of the limits it must be; without it, another would have stopped the archive later.
REASONS = {
    (FOLDER, "two hundred thousand files"): "more than the 100,000 members",
    (FOLDER, "a header of 128 MiB that is there"): "a header of",
    (BATCHES, "two hundred thousand files"): "more than the 1,000 members",
    (BATCHES, "a header of 128 MiB that is there"): "a header of",
}


def judge_archives(base: Path, mebibytes: int = 3 << 10) -> Counter[str]:
    """Every archive, unpacked and read as CIFAR-10; what lies beside is compared before and after."""
    if mebibytes < 1 << 10:
        sources.MAX_UNPACKED_NBYTES = cifar.MAX_ARCHIVE_BYTES = mebibytes << 19
    outside = base / "outside"
    outside.mkdir(parents=True)
    (outside / "canary").write_text("untouched")
    found: Counter[str] = Counter()
    for folder, read in ((FOLDER, _unpack), (BATCHES, _read_batches)):
        refusals: set[str] = set()
        for what, content in archives(folder, outside, mebibytes):
            place = base / "place"
            place.mkdir()
            before = tree(base, but=place)
            start = time.process_time()
            try:
                read(place, content)
                found["right"] += 1
            except DataError as error:
                assert len(str(error)) < 2000 + 2 * len(str(place)), what
                found["refused"] += 1
                refusals.add(what)
                if mebibytes >= 1 << 10:  # where the limits are as they are
                    assert REASONS.get((folder, what), "") in str(error), error
            except BaseException as error:
                error.add_note(f"{folder}: {what}")
                raise
            assert time.process_time() - start < SECONDS_A_CASE, what
            assert tree(base, but=place) == before, f"{what}: something outside was touched"
            for path in place.rglob("*"):
                assert not path.is_symlink() and (path.is_file() or path.is_dir()), what
                assert place.resolve() in path.resolve().parents, what
            assert what in refusals or not what.startswith(("a bomb in", "a bomb beside")), f"{what} was taken"
            left = {path.name for path in place.iterdir()}
            assert left <= {"a.tar.gz", FOLDER, "cifar-10-binary.tar.gz"}, f"{what}: {left}"
            found["archives"] += 1
            shutil.rmtree(place)
    return found


def _unpack(place: Path, content: bytes) -> None:
    (place / "a.tar.gz").write_bytes(content)
    target = place / FOLDER
    try:
        sources.unpack(place / "a.tar.gz", target)
    except DataError:
        assert not target.exists(), "whole, or not at all"
        raise
    read = datasets.folder(target)
    assert list(read.classes) == ["a", "b"]
    image = read[0].image
    assert image.shape == (4, 4, 3) and (image == [255, 0, 0]).all()


def _read_batches(place: Path, content: bytes) -> None:
    (place / "cifar-10-binary.tar.gz").write_bytes(content)
    read = datasets.cifar10(place, split="all", download=False)
    assert len(read) == 6 and (read.labels == 1).all()
    assert not read[0].image.any()


def tree(root: Path, but: Path) -> dict[str, Any]:
    """All that is there, but one folder's contents."""
    found = {}
    for folder, names, files in os.walk(root):
        if Path(folder) == but:
            names.clear()
            continue
        for name in [*names, *files]:
            path = Path(folder, name)
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            times = status.st_mtime_ns if path != but else 0
            found[str(path)] = (status.st_mode, status.st_size if path != but else 0, times, content)
    return found


# --------------------------------------------------------------------------------------------------------- images


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2) -> bytes:
    first = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + first + b"".join(chunks) + png_chunk(b"IEND", b"")


def deflated(mebibytes: int) -> bytes:
    """Zeros, a thousand times smaller."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def image_bombs(mebibytes: int) -> Iterator[tuple[str, bytes]]:
    """Images of some kilobytes that claim, or inflate to, or take the time of, gigabytes; what can be made smaller
    without a difference inflates to `mebibytes`."""
    for side in (7072, 8000, 30_000, 65_535, 1 << 20, (1 << 31) - 1):
        yield f"PNG of {side}²", png(side, side, png_chunk(b"IDAT", deflated(4)))
        yield f"PNG of {side}² in one bit", png(side, side, png_chunk(b"IDAT", deflated(1)), bits=1, colour=0)
        length = side * 1000 % (1 << 31)
        yield f"PNG of 1 x {length}", png(1, length, png_chunk(b"IDAT", deflated(1)))
    pixel = png_chunk(b"IDAT", zlib.compress(bytes(4)))
    big = deflated(mebibytes)
    yield "PNG with pixels beyond all size for one", png(1, 1, png_chunk(b"IDAT", big))
    yield "PNG with a text beyond all size", png(1, 1, png_chunk(b"zTXt", b"a\0\0" + big), pixel)
    yield (
        "PNG with an international text beyond all size",
        png(1, 1, png_chunk(b"iTXt", b"a\0\1\0\0\0" + big), pixel),
    )
    yield "PNG with a profile beyond all size", png(1, 1, png_chunk(b"iCCP", b"a\0\0" + big), pixel)
    texts = [png_chunk(b"zTXt", b"k%d\0\0" % i + deflated(1)) for i in range(200)]
    yield "PNG with 200 texts of 1 MiB", png(1, 1, *texts, pixel)
    yield "PNG with a hundred thousand chunks", png(1, 1, *[png_chunk(b"teSt", b"")] * 100_000, pixel)
    yield "PNG with a palette of nothing", png(4, 4, png_chunk(b"PLTE", b""), pixel, colour=3)
    yield "PNG with frames", png(1, 1, png_chunk(b"acTL", struct.pack(">II", (1 << 31) - 1, 0)), pixel)
    small = jpeg(Image.new("RGB", (16, 16)))
    size = small.index(b"\xff\xc0") + 5
    for height, width in ((65_500, 65_500), (65_535, 65_535), (7100, 7100), (0, 16), (16, 0)):
        claimed = small[:size] + struct.pack(">HH", height, width) + small[size + 4 :]
        yield f"JPEG of {width} x {height}", claimed
    yield "JPEG of a hundred thousand segments", small[:2] + b"\xff\xfe\x00\x02" * 100_000 + small[2:]
    side = 7 * mebibytes
    progressive = jpeg(Image.new("RGB", (side, side)), progressive=True, quality=50)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield "JPEG of twenty thousand scans", progressive[:-2] + scan * 20_000 + progressive[-2:]
    entries = struct.pack(">H", 65_535) + struct.pack(">HHII", 0x112, 3, 1 << 31, 8) * 4000
    counts = b"Exif\0\0MM\0*\0\0\0\x08" + entries
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    for what, exif in (("of impossible counts", counts), ("in a circle", loop)):
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        yield f"JPEG with EXIF {what}", small[:2] + segment + small[2:]
    for width, height in ((1 << 30, 1 << 30), (-1, 1 << 20), (8000, -8000), (1, (1 << 31) - 1)):
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        yield f"BMP of {width} x {height}", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info
    rle = struct.pack("<IiiHHIIiiII", 40, 6000, 6000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)
    yield (
        "BMP of 6000² in runs that are missing",
        b"BM" + struct.pack("<IHHI", 1078, 0, 0, 1078) + rle + b"\0\1" * 10,
    )
    lossless = b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14) + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(lossless)) + lossless
    yield "WebP of 16384²", b"RIFF" + struct.pack("<I", len(body)) + body


def judge_images(mebibytes: int) -> Counter[str]:
    """Every bomb: an image of the size it claims, within the limit, or an error that names it."""
    found: Counter[str] = Counter()
    for what, content in image_bombs(mebibytes):
        assert len(content) < 4 << 20, what
        start = time.process_time()
        try:
            image = decode(content, what)
        except ImageError as error:
            assert error.source == what and len(str(error)) < 500, what
            found["refused"] += 1
        except BaseException as error:
            error.add_note(what)
            raise
        else:
            assert image.mode == "RGB" and image.width * image.height <= 50_000_000, what
            found["decoded"] += 1
        assert time.process_time() - start < SECONDS_A_CASE, what
        found["bombs"] += 1
    return found


# -------------------------------------------------------------------------------------------------------- folders

ODD_NAMES = [
    "new\nline", "carriage\rreturn", "tab\tbed", "bell\x07", "\x1b[2J\x1b[31mred", "[red]markup",
    "[bold", "{braces}", "%s%n%d", "per%cent", "a'b", 'a"b', "`touch escaped`", "$(touch escaped)",
    ";touch escaped", "a|b",
    "a&b", "<tag>", "-rf", "--help", "-", "~", "~root", " leading", "trailing ", "two  spaces", "dot.", "..dots",
    "*", "?", "a*b?c[d]", "\\", "a\\b", "C:", "con", "nul", "aux.txt", "é", "ß", "İ", "日本語", "عربى",
    "\u202egnp.exe", "\u200b", "\ufeff", "\u2028", "\U0001f600", "\U0001f468\u200d\U0001f469", "\U0010ffff",
    "\udcff\udcfe", "a\udc80b", "x" * 250, "\U0001f600" * 60, "0", "1e9", "None", "nan", "True", "__init__",
]  # fmt: skip


def odd_folder(root: Path) -> dict[str, list[str]]:
    """A class for each odd name, in it an image of each of a few odd names; class -> ids in the order of the data
    set. Names that the file system refuses are left out."""
    from headstart.data.dataset import sample_id

    made: dict[str, list[str]] = {}
    root.mkdir()
    for k, name in enumerate(ODD_NAMES):
        try:
            (root / name).mkdir()
        except OSError:
            continue
        files = {}
        for j, other in enumerate([*ODD_NAMES[k:], *ODD_NAMES[:k]][:3]):
            stream = io.BytesIO()
            pixels = np.full((4, 5, 3), (k, j, 7), np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            file = f"{other[: 62 if len(other.encode(errors='surrogateescape')) > 200 else None]}.png"
            try:
                (root / name / file).write_bytes(stream.getvalue())
            except OSError:
                continue
            files[file] = sample_id(stream.getvalue())
        made[name] = [files[file] for file in sorted(files) if not file.startswith(".")]
    return {name: ids for name, ids in made.items() if not name.startswith(".")}


# ----------------------------------------------------------------------------------------------------- a process


def bounded(judge: Callable[..., Counter[str]], *arguments: Any) -> dict[str, Any]:
    """Judge in this process, with a limit to its memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    start = time.monotonic()
    found = judge(*arguments)
    return {**found, "seconds": time.monotonic() - start, "peak": peak_nbytes()}
