"""Reading the arrays of an npz file without trusting it."""

import io
import zipfile

import numpy as np

from dither.data._errors import CorruptData

LIMIT = 1 << 30  # bytes, decompressed


def read_npz(packed: bytes, file: str, names: tuple[str, ...], remedy: str = "") -> dict[str, np.ndarray]:
    """Unpack an npz file that holds exactly the uint8 arrays `names`.

    Sizes are summed before anything is decompressed; object arrays (which would be unpickled) are refused.
    Raises CorruptData, naming `file`, and nothing else.
    """
    expected = f"an npz file of the uint8 arrays {', '.join(names)}"
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            members = sorted(archive.namelist())
            size = sum(info.file_size for info in archive.infolist())
        if members != sorted(f"{name}.npy" for name in names):
            raise CorruptData(file, expected, f"members {members}", remedy)
        if size > LIMIT:
            raise CorruptData(file, f"at most {LIMIT:,} bytes", f"members of {size:,}", remedy)
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except CorruptData:
        raise
    except Exception as error:
        # zipfile, zlib and numpy answer damage with a dozen kinds of exception; for the reader it is one.
        raise CorruptData(file, expected, f"{type(error).__name__}: {error}", remedy) from error
    for name, array in arrays.items():
        kind = getattr(array, "dtype", "bytes")  # numpy hands over a member without an npy header as bytes
        if kind != np.uint8:
            raise CorruptData(file, expected, f"{name} of type {kind}", remedy)
    return arrays
