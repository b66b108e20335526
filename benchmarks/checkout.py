"""Makes this checkout importable where headstart is not installed: on a machine that reaches no package registry,
or for a look at another commit.

A package is installed by pip as two things: its files, here under other names (`core/` is `headstart`, `backends/`
is `headstart.backends`), and its metadata, where the backends' entry points stand. Both are made as links and
files in a temporary folder, which lives as long as the machine's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def installed() -> bool:
    """Whether this checkout is what `import headstart` gives already."""
    try:
        import headstart
    except ImportError:
        return False
    try:
        importlib.metadata.version("headstart")
    except importlib.metadata.PackageNotFoundError:
        return False
    return Path(headstart.__file__).resolve().is_relative_to(ROOT)


def importable() -> dict[str, str]:
    """What the environment of this process and its children must say, for `import headstart` to give this
    checkout; it is put into this process's."""
    environment: dict[str, str] = {}
    if not installed():
        folder = _linked()
        sys.path.insert(0, str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "headstart"]:
            del sys.modules[name]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        os.environ.update(environment)
    return environment


def _linked() -> Path:
    mark = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"headstart-checkout-{mark}"
    package = folder / "headstart"
    package.mkdir(parents=True, exist_ok=True)
    targets = {path.name: path for path in (ROOT / "core").iterdir() if path.name != "__pycache__"}
    targets["backends"] = ROOT / "backends"
    for link in package.iterdir():
        if link.name not in targets:
            link.unlink()
    for name, target in targets.items():
        link = package / name
        if not link.is_symlink():
            link.symlink_to(target, target.is_dir())
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = described["project"]
    version = described["tool"]["setuptools_scm"]["fallback_version"]  # git may be missing here
    metadata = folder / f"headstart-{version}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: headstart\nVersion: {version}\n", encoding="utf-8"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
