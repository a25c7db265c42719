"""The IDX format of MNIST, gzipped: a magic number, the dimensions, the bytes of the array, nothing else.

    00 00 08 n | n big-endian uint32 dimensions | product(dimensions) bytes        (08: unsigned bytes)

Source: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits".
"""

import math
import struct
import zlib

import numpy as np

from dither.data._errors import CorruptData

LIMIT = 1 << 30  # bytes, decompressed


def read_idx(packed: bytes, file: str, inner: tuple[int, ...] = (), limit: int = LIMIT) -> np.ndarray:
    """Unpack a gzipped IDX file of unsigned bytes into a uint8 array of shape (n, *inner).

    It decompresses as many bytes as the header declares, and none where that is more than `limit`.
    Raises CorruptData, naming `file`, for another magic number or inner shape, too few bytes, bytes left over
    (in the array, or after the gzip member), and a wrong gzip checksum. It raises nothing else.
    """
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # gzip: the stream's CRC-32 and length are verified
    rank = 1 + len(inner)
    try:
        header = stream.decompress(packed, 4 + 4 * rank)
        shape = _declared_shape(header, file, inner)
        size = math.prod(shape)
        if size > limit:
            raise CorruptData(file, f"at most {limit:,} bytes", f"a header declaring {size:,}")
        # One byte more than declared, so that a surplus shows without unpacking it.
        body = stream.decompress(stream.unconsumed_tail, size + 1)
    except zlib.error as error:
        raise CorruptData(file, "a gzip stream", str(error)) from error
    if len(body) != size:
        actual = f"more than {size:,} bytes" if len(body) > size else f"{len(body):,} bytes"
        raise CorruptData(file, f"the {size:,} bytes that its header declares", actual)
    if not stream.eof:
        raise CorruptData(file, "a whole gzip stream", "its end missing")
    if stream.unused_data:
        raise CorruptData(file, "nothing after the gzip stream", f"{len(stream.unused_data):,} bytes more")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _declared_shape(header: bytes, file: str, inner: tuple[int, ...]) -> tuple[int, ...]:
    rank = 1 + len(inner)
    if len(header) < 4 + 4 * rank:
        raise CorruptData(file, f"a header of {4 + 4 * rank} bytes", f"{len(header)}")
    magic = bytes([0, 0, 8, rank])
    if header[:4] != magic:
        raise CorruptData(file, f"magic number {magic.hex()}", header[:4].hex())
    shape = struct.unpack(f">{rank}I", header[4:])
    if shape[1:] != inner:
        raise CorruptData(file, f"dimensions {('n', *inner)}", f"{shape}")
    return shape
