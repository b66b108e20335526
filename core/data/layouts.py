"""What people give for a data set that is none: the folder above a split, images beside masks, a table, a URL.

Read as a folder a class these train without a word on nothing: a network that tells "train" from "val". So they
are refused, with what they are and what works, but for a plain split, which `split_folders` opens. Names decide,
and only together: one class may be called "train".
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from headstart.common.errors import DataError, DataWarning
from headstart.common.text import first_few
from headstart.data.file_system import LOCAL, Folder
from headstart.data.formats import SUFFIXES, kind_of
from headstart.data.names import normal, shown
from headstart.data.place import FILE, REMOTE, place_of, suffix_of
from headstart.data.signatures import UNPACK, what_is

ROLES = {
    "train": "train training trainset trainingset trn trainval traindata trainimages trainingimages "
    "entrainement entraînement apprentissage trainingsdaten trainingsbilder entrenamiento treino treinamento "
    "addestramento eğitim обучение 训练 训练集 訓練 學習 学習",
    "val": "val valid validation validate validationset valset dev devset development eval evaluation valdata "
    "validierung validierungsdaten validacion validación validacao validação convalida валидация 验证 验证集 検証",
    "test": "test testing testset testingset tst holdout testdata testimages testdev "
    "testdaten testbilder prueba pruebas teste тест 测试 测试集 テスト",
    "unlabeled": "unlabeled unlabelled unsup unlabeledset",
}
KINDS = {
    "images": "images image imgs img pictures picture pics pic photos photo rgb frames jpegs imagestr imagests",
    "targets": "masks mask labels label annotations annotation annots annot anns ann segmentations segmentation "
    "segs seg segmaps trimaps trimap gt groundtruth imagesets bboxes bbox boxes boundingboxes depth depths "
    "depthmaps disparity normals landmarks keypoints captions targets target jsons json xmls xml csv csvs txt "
    "txts labelstr labelsts metadata meta",
}
ALSO = (
    "data dataset set sets split splits class classes object objects instance jpeg jpg png raw left right bit "
    "fine coarse all full part parts std files map maps color colour binary ground truth bounding tr ts a b"
)
ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
FILLERS = frozenset(ALSO.split())
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}
PIECE = re.compile(
    r"(.*?(?<![^\W\d_])(?:k?-?folds?|cv|split|part|batch|chunk|shard|subset|partition))"
    r"[ _-]*(?:\d+|(?<=[ _-])[a-z])",
    re.IGNORECASE,
)
"""one of the pieces that a data set comes in: fold_0, HAM10000_images_part_1, "Fold A"; group 1: what all share"""
DEEP = 8
"""folders within each other, each alone, that a hint looks through"""
READ_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}")
TABLES = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".xlsx": "Excel",
    ".xls": "Excel",
    ".ods": "OpenDocument",
    ".parquet": "Parquet",
    ".feather": "Arrow",
    ".arrow": "Arrow",
    ".json": "JSON",
    ".jsonl": "JSON",
    ".ndjson": "JSON",
    ".txt": "text",
    ".lst": "text",
}
NO_TABLES = (
    "tables of labels (.csv, .tsv, .jsonl, .parquet) are opened by hs.data.table(path), or --data in the command; "
    "save a table of another kind as one of these"
)


def layout_of(names: Sequence[str]) -> str | None:
    """What folders of these names are together: "split", "folds", "sides" (of a split, in the classes'
    names: cats_train) or "pairs" (images and what belongs to them).
    None where they may be classes."""
    words = {name: _words(name) for name in names}
    layout = {name for name, about in words.items() if about is not None}
    roles = {role for about in words.values() if about is not None for role in about[0]}
    kinds = {kind for about in words.values() if about is not None for kind in about[1]}
    divided = [name for name in layout if words[name][0]]  # type: ignore[index]
    if len(names) > 1 and len(layout) == len(names) and kinds == {"images", "targets"}:
        return "pairs"
    if len(roles) > 1 and len(divided) >= len(names) - len(divided):
        return "split"
    if len(names) > 1 and len(divided) == len(names):
        return "split"
    if len(names) > 1 and _are_pieces(names):
        return "folds"
    return "sides" if 2 * len(_same_in_roles(names)) >= len(names) > 1 else None


def role_of(name: str) -> str | None:
    """ "train", "val", "test" or "unlabeled" for a folder that is called so; else None."""
    about = _words(name)
    return next(iter(sorted(about[0])), None) if about is not None else None


def layout_in(root: Folder, names: Sequence[str]) -> str | None:
    """`layout_of` these folders in `root`, or "split" where what lies in them says so."""
    return layout_of(names) or ("split" if _same_folders_in_parts(root, names) else None)


def refuse_layout(root: Folder, names: Sequence[str]) -> None:
    """DataError where the folders in `root` are no classes by their names."""
    layout = layout_in(root, names)
    if layout is None:
        return
    are = f"{root} holds {listed(names)}"
    but = "If these are classes, say so: hs.data.folder(path, classes=[...])"
    if layout == "pairs":
        images = next((name for name in names if "images" in (_words(name) or ((), ()))[1]), names[0])
        raise DataError(
            f"{are}: images and what belongs to them, not a folder a class. headstart learns one class an image; "
            f"if {root / images} holds a folder a class, name that, else sort the images into such folders. {but}"
        )
    if layout == "folds":
        raise DataError(
            f"{are}: parts of one data set, not classes. Name one of them, or the folder of all. {but}"
        )
    if layout == "sides":
        raise DataError(
            f"{are}: parts of a split in their names. Put the classes below the parts, such as train/cat and "
            f"val/cat, and name the part to train on. {but}"
        )
    train = next((name for name in names if role_of(name) == "train"), names[0])
    other = next((name for name in names if name != train and role_of(name) not in (None, "train")), None)
    with_val = (
        f"; in Python the other validates: hs.fit(model, hs.data.folder({str(root / train)!r}), "
        f"hs.data.folder({str(root / other)!r}))"
        if other is not None
        else ""
    )
    raise DataError(
        f"{are}: the parts of a split, not classes. Name the part to train on: --data {root / train}, of which a "
        f"share is held out to validate (--split){with_val}. {but}"
    )


def refuse_layout_below(root: Folder, below: dict[str, Sequence[str]]) -> None:
    """The same for the folders in every class folder, class -> their names; empty where it holds images itself.
    DataWarning where all hold the same folders, which may be the classes (of several cameras, or years)."""
    layouts = {layout_of(names) for names in below.values()}
    if not below or None in layouts:
        inner_names = {tuple(sorted(names)) for names in below.values()}
        if len(inner_names) == 1 and len(below) > 1 and len(same := inner_names.pop()) > 1:
            warnings.warn(
                f"{root} is read as the classes {listed(sorted(below))}, and all of them hold the same folders, "
                f"{listed(same)}: if these are the classes, there should be one folder of each. To have it as it "
                "is read, say so: hs.data.folder(path, classes=[...])",
                DataWarning,
                stacklevel=3,
            )
        return
    name, inner = next(iter(below.items()))
    what = "images and what belongs to them" if layouts == {"pairs"} else "the parts of a split"
    raise DataError(
        f"the class folders in {root} hold {what} ({', '.join(f'{name}/{part}' for part in inner)}), which would "
        "be mixed. Put the classes below these, and name one: ROOT/train/CLASS. To take all of it, say so: "
        "hs.data.folder(path, classes=[...])"
    )


def one_class_hint(root: Folder, name: str) -> str:
    """What to do about a root with one class folder."""
    inner = (root / name).folders()
    for _ in range(DEEP):
        if len(inner) != 1:
            break
        root, name = root / name, inner[0]
        inner = (root / name).folders()
    if len(inner) > 1 and layout_of(inner) == "split":
        train = next((part for part in inner if role_of(part) == "train"), inner[0])
        return f" That one holds a split: name the part to train on, {root / name / train}."
    if len(inner) > 1:
        return f" Do you mean {root / name}, which holds {listed(inner)}?"
    return " Is this the folder above or below the right one?"


def no_class_hint(root: Folder, has_images: bool) -> str:
    """What to do about a root without class folders: it may be a class itself, or its images have no labels."""
    if root.files is LOCAL:
        if tables := sorted(path for path in Path(root.path).iterdir() if path.suffix.lower() in READ_TABLES):
            if len(tables) == 1:
                return f" Do you mean the table in it, {tables[0]}?"
            if all(path.suffix.lower() == ".parquet" for path in tables):
                return (
                    f" It holds {len(tables):,} Parquet files. Name one; parts of one table are opened by "
                    f'hs.data.huggingface(datasets.load_dataset("parquet", data_files="{root}/*.parquet"))'
                )
            return f" It holds the tables {listed([path.name for path in tables])}: name one of them."
        above = root.at(str(Path(root.path).absolute().parent))
        beside = above.folders()
        if len(beside) > 1 and layout_of(beside) is None and all(_holds_an_image(above / name) for name in beside):
            return f" Do you mean {above}, which holds {listed(beside)}?"
    what = "Sort its images into such folders" if has_images else "Is this the folder above or below the right one"
    return (
        f" {what}{'.' if has_images else '?'} Labels in a table are read from it (--data labels.csv), and "
        "`headstart predict` takes images without labels."
    )


def refuse_url(path: str | os.PathLike[str]) -> None:
    """DataError for an address in place of a path or of a URL that is read here."""
    text = os.fspath(path)
    address = URL.match(text)
    if address is None or (isinstance(path, str) and text.startswith((*REMOTE, FILE))) or os.path.lexists(text):
        return
    scheme = address.group(1).lower()
    if f"{scheme}://" in (*REMOTE, FILE):
        raise DataError(f"{text} is an address, and no path; give the URL as text, as a Path drops a slash")
    fetch = {
        "hf": "hf download --repo-type dataset",
        "abfs": "azcopy sync",
        "gcs": "gcloud storage rsync -r",
    }.get(scheme)
    how = f" (such as `{fetch}`)" if fetch else ""
    raise DataError(
        f"{text} is an address that is not read here; expected a path, or a URL that begins with "
        f"{', '.join(REMOTE)} or {FILE}. Download it{how}, and give its path"
    )


def root_of(root: str | os.PathLike[str] | None, folder: str | None) -> str:
    """What the names in a table are relative to: `root`, where somebody said it, or the table's folder. Raises as
    `refuse_url` and `place_of`."""
    if root is None:
        return folder or "."
    refuse_url(root)
    return place_of(root)


def refuse_file(place: Folder) -> None:
    """DataError for a file in place of a folder: what it is, and what works."""
    expected = "expected a folder that holds one folder a class"
    if not place.files.is_file(place.path):  # opening a pipe would wait for ever
        raise DataError(f"{place} is neither a folder nor a regular file; {expected}")
    try:
        prefix = place.files.first_bytes(place.path)
    except OSError as error:
        raise DataError(
            f"{place} is no folder, and cannot be read: {error.strerror or error}; {expected}"
        ) from error
    what, remedy = what_is(prefix)
    if (image := kind_of(prefix)) is not None and image != "NumPy":  # which may hold many
        raise DataError(
            f"{place} is one image ({image}); {expected}. `headstart predict` classifies single images"
        )
    table = TABLES.get(suffix_of(place.path))
    if table is not None and (remedy != UNPACK or table in ("Excel", "OpenDocument")):
        raise DataError(f"{place} is a table or list ({table}); {expected}: {NO_TABLES}")
    if remedy == UNPACK and suffix_of(within := Path(place.path).stem) in READ_TABLES:
        raise DataError(f"{place} is {what}, by its name of a table; unpack it, and name the table: {within}")
    raise DataError(f"{place} is {what or 'a file'}; {expected}" + (f": {remedy}" if remedy else ""))


def _holds_an_image(folder: Folder) -> bool:
    try:
        return any(item.name.lower().endswith(SUFFIXES) for item in folder.files.scan(folder.path))
    except OSError:
        return False


def _words(name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The role ("train" ...) and the kinds ("images", "targets") that a folder's name says; None for any other."""
    words = _split(name)
    joined = "".join(words)
    if joined in ROLE_OF or joined in KIND_OF:
        words = [joined]
    roles = tuple(ROLE_OF[word] for word in words if word in ROLE_OF)[:1]
    kinds = tuple(KIND_OF[word] for word in words if word in KIND_OF)
    known = all(word in ROLE_OF or word in KIND_OF or word in FILLERS for word in words)
    return (roles, kinds) if known and (roles or kinds) else None


def _split(name: str) -> list[str]:
    """The words of a name, in small letters."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", normal(name))
    return re.findall(r"[^\W\d_]+", spaced.casefold())


def _are_pieces(names: Sequence[str]) -> bool:
    pieces = [PIECE.fullmatch(name.strip()) for name in names]
    return all(pieces) and len({piece[1].casefold() for piece in pieces if piece is not None}) == 1


def _same_in_roles(names: Sequence[str]) -> list[str]:
    """Names of one thing in two roles or more: cats_train and cats_val."""
    roles: dict[str, dict[str, str]] = {}
    for name in names:
        words = _split(name)
        for at, rest in ((0, words[1:]), (-1, words[:-1])):
            if rest and words[at] in ROLE_OF:
                roles.setdefault(" ".join(rest), {})[name] = ROLE_OF[words[at]]
    return [name for of in roles.values() if len(set(of.values())) > 1 for name in of]


def _same_folders_in_parts(root: Folder, names: Sequence[str]) -> bool:
    """Whether folders called as two parts of a split hold folders of the same names; or one is called so, and all
    the others hold the same folders as it."""
    parts = {name: role for name in names if (role := role_of(name)) is not None}
    if len(set(parts.values())) < 2:
        return bool(parts) and bool(_same_folders(root, names))
    inner = [set((root / name).folders()) for name in parts]
    return any(a & b for i, a in enumerate(inner) for b in inner[i + 1 :])


def _same_folders(root: Folder, names: Sequence[str]) -> list[str]:
    """The folders, two or more, that lie in every one of the folders `names`, which hold no others; else none."""
    first = (root / names[0]).folders() if len(names) > 1 else []
    same = len(first) > 1 and all((root / name).folders() == first for name in names[1:])
    return first if same else []


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in quotes, the first few of many."""
    return first_few(list(map(shown, names)), most)
