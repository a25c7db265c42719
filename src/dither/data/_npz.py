"""Reading the arrays of an npz file without trusting it."""

import io
import zipfile
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from dither.data._errors import CorruptData

LIMIT = 1 << 30  # bytes, decompressed


def read_npz(
    packed: bytes, file: str, names: tuple[str, ...], remedy: str = "", kinds: Mapping[str, str] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """Unpack an npz file that holds exactly the arrays `names`, of type uint8 or what `kinds` says of one.

    Sizes are summed before anything is decompressed; object arrays (which would be unpickled) are refused.
    Raises CorruptData, naming `file`, and nothing else.
    """
    typed = ", ".join(f"{name} ({kinds[name]})" if name in kinds else name for name in names)
    expected = f"an npz file of the uint8 arrays {typed}"
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
        # zipfile, zlib and numpy raise a dozen kinds of exception for damage; for the reader it is one.
        raise CorruptData(file, expected, f"{type(error).__name__}: {error}", remedy) from error
    for name, array in arrays.items():
        kind = getattr(array, "dtype", "bytes")  # numpy hands over a member without an npy header as bytes
        if kind != kinds.get(name, "uint8"):
            raise CorruptData(file, expected, f"{name} of type {kind}", remedy)
    return arrays
