"""Define the refusal of a whole file. Pure."""


class FileRefused(ValueError):
    """The whole file is refused. `reason` is a stable slug; the message repeats nothing of the file."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class WrongColumns(FileRefused):
    """The columns of the file cannot be used."""
