"""Names for requests."""

import os
from itertools import count


class RequestIds:
    """Calling it gives a name that no other request of any worker has."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex().encode()
        self._numbers = count(1)

    def __call__(self) -> bytes:
        """As bytes, because it goes into a header."""
        return b"req_%b%06x" % (self._prefix, next(self._numbers))
