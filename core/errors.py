"""What headstart raises and warns of, for `except` and `warnings.filterwarnings`:

    from headstart.errors import DataError, SettingError

All errors are `HeadstartError`. Wrong arguments are `SettingError`, which is a `ValueError` too.
"""

from headstart.common.errors import *  # noqa: F403 - the one list of them is there
