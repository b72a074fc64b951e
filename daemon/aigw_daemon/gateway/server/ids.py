"""Names for requests."""

import os
from collections.abc import Iterator

_BLOCK = 256
_LAST_BYTE = tuple(b"%02x" % number for number in range(_BLOCK))


class RequestIds:
    """Calling it gives a name that no other request of any worker has."""

    def __init__(self) -> None:
        self._worker = b"req_" + os.urandom(6).hex().encode()
        self._begun = 0
        self._block: Iterator[bytes] = iter(())

    def __call__(self) -> bytes:
        """As bytes, because it goes into a header. Made in blocks: formatting a number takes longer than all else."""
        for name in self._block:
            return name
        prefix = b"%b%04x" % (self._worker, self._begun)
        self._begun += 1
        self._block = iter([prefix + last for last in _LAST_BYTE])
        return next(self._block)
