"""What Python compiles of a library when it is first imported is compiled once, not in each environment of tox.

`.tox/ENVIRONMENT/bin/python .ci/compiled.py OTHER...` imports all backends, then hands what has been compiled to
the other environments. Of TensorFlow that takes ten seconds, and two workers that start together take them both.
uv links the same files into every environment, so bytecode made in one of them is right in the others; where a
file is another all the same, its time or its size tells Python so.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path

from headstart.contract import registry

OTHER_LIBRARIES = ["bokeh.embed", "bokeh.plotting", "hypothesis", "pytest", "sklearn.metrics", "xdist.remote"]


def main(others: list[str]) -> None:
    for backend in registry.installed():
        registry.load(backend)
    for library in OTHER_LIBRARIES:
        importlib.import_module(library)
    here = Path(sys.prefix)
    for compiled in Path(sysconfig.get_path("purelib")).rglob("__pycache__/*.pyc"):
        for other in others:
            target = here.parent / other / compiled.relative_to(here)
            if target.parent.parent.is_dir() and not target.exists():
                target.parent.mkdir(exist_ok=True)
                target.hardlink_to(compiled)  # Python never writes into one: it puts a new one in its place


if __name__ == "__main__":
    main(sys.argv[1:])
