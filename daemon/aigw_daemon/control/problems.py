"""How the control API says no: one exception with the problem and its HTTP status."""

from aigw_daemon.control.schema import Problem


class Refusal(Exception):
    """An operation can't be done; the operator is told why and what to do."""

    def __init__(
        self, status: int, code: str, message: str, *, hint: str | None = None, details: list[str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(code=code, message=message, hint=hint, details=details or [])
