"""The version of headstart, as records and reports have it: that of the installed distribution, which is made from
git's tags when it is built. So it stands in no file that somebody could forget to change."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("headstart")
except PackageNotFoundError:  # the folder alone, on a path
    __version__ = "0+unknown"
