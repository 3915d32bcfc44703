"""Failures that an operator can act on.

An `ExpectedError` is shown to people as it is: what happened, on what, and what to do next. Anything
else that escapes is a bug and keeps its traceback.
"""


class ExpectedError(Exception):
    """What happened (`message`), what the machine said (`detail`), and the reader's next move (`advice`)."""

    default_advice = ""

    def __init__(self, message: str, *, detail: str = "", advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.advice = advice or self.default_advice

    def __str__(self) -> str:
        return self.message
