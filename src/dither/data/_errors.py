"""The error that says a data file is not what it should be."""


class CorruptData(ValueError):
    """A data file whose bytes are not the ones expected.

    It carries `file`, `expected` and `actual`; the message ends with the remedy.
    """

    def __init__(self, file: str, expected: str, actual: str, remedy: str = "") -> None:
        remedy = remedy or "replace it by a fresh copy, or delete it and load again to download one"
        super().__init__(f"{file} is corrupt: expected {expected}, found {actual}; {remedy}")
        self.file, self.expected, self.actual = file, expected, actual
