"""The version of this aigw, and of what it writes for a later one to read."""

from importlib.metadata import version

AIGW_VERSION = version("aigw")

STATE_VERSION = 1
"""Of the state file. A newer aigw migrates, an older one refuses with a sentence."""

LINK_VERSION = 3
"""Of the messages between daemon and gateway worker."""
