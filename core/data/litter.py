"""What systems, network drives and programs leave in folders of pictures: never a class, never a sample.

One table for every level of every walk. Names are compared without regard to case. What begins with a dot is
hidden on most systems and is litter too (.DS_Store, .Trash-1000, .AppleDouble, .ipynb_checkpoints, ._x.jpg).
"""

from __future__ import annotations

import re

NAMES = frozenset(
    {
        # Windows
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "system volume information", "$winreagent", "$getcurrent", "$sysreset"),
        *("albumartsmall.jpg", "wpsettings.dat", "indexervolumeguid"),
        # macOS, and what it leaves in archives and on servers
        *("__macosx", "icon\r", "desktop db", "desktop df", "network trash folder", "temporary items"),
        *("resource.frk", "finder.dat", "thefindbycontentfolder", "thevolumesettingsfolder"),
        # Linux
        "lost+found",
        # Synology, QNAP, NetApp and others
        *("@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "~snapshot", "@__thumb", "@tmp"),
        *("@sharebin", "_gsdata_", "@synologydrive"),
        # programs for photographs, Python, and Spark
        *("picasa.ini", "zbthumbnail.info", "pspbrwse.jbf", "__pycache__", "_success"),
    }
)
PREFIXES = (".", "@syno")
SAVED_BY_CHKDSK = re.compile(r"found\.\d{3}")
SUFFIXES = (":zone.identifier", "@synoeastream", "@synoresource", "_$folder$")  # the last: of Hadoop, in buckets


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is never a sample or a class, wherever it lies."""
    lower = name.lower()
    if lower.startswith(PREFIXES) or lower in NAMES or lower.endswith(SUFFIXES):
        return True
    return SAVED_BY_CHKDSK.fullmatch(lower) is not None
