"""The version of this aigw, and of what it writes for a later one to read."""

AIGW_VERSION = "0.1.0"
"""The build reads it from here: looking it up in the installed package would hold up every command."""

STATE_VERSION = 1
"""Of the state file. A newer aigw migrates, an older one refuses with a sentence."""

LINK_VERSION = 3
"""Of the messages between daemon and gateway worker."""
