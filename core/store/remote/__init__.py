"""Stores behind a URL: laid out as on a disk, under the same names. See `headstart.common.objects`."""
