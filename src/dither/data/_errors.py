"""The error that says a data file is not what it should be."""


class CorruptData(ValueError):
    """A data file whose bytes are not the ones expected.

    Carries `file`, `expected` and `found`; the message ends with the remedy.
    """

    def __init__(self, file: str, expected: str, found: str, remedy: str = ""):
        remedy = remedy or "replace it by a fresh copy, or delete it and load again to download one"
        super().__init__(f"{file} is corrupt: expected {expected}, found {found}; {remedy}")
        self.file, self.expected, self.found = file, expected, found
