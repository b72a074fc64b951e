"""A setting of the environment that can't be used."""


class BadEnvironment(ValueError):
    """A variable that the network policy reads has a value that can't be used.

    The text names the variable, the rule and the remedy; it never contains the value's credentials.
    """

    def __init__(self, variable: str, trouble: str, remedy: str) -> None:
        # A running daemon keeps the environment that it was started with.
        text = f"the daemon's environment variable {variable} {trouble}: {remedy}, then 'aigw down' and 'aigw up'"
        super().__init__(text)
        self.variable = variable
