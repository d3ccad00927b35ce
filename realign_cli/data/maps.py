"""Attention maps beside images: where those of a record lie, and how they are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.data.images import image_path
from realign_cli.errors import RecordError, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from realign_cli.records import Record

MAPS = "maps"


def maps_path(folder: Path, record_id: str) -> Path:
    """Where the attention maps of a record lie, in a folder of records."""
    return folder / MAPS / f"{record_id}.safetensors"


def read_maps(record: Record, base: Path | None) -> dict[str, NDArray[np.float32]]:
    """The attention maps that lie beside a record's image, by name; none where there are none.

    Raises:
        RecordError: they cannot be read or are no maps, or the record names no image.
    """
    import numpy as np
    from safetensors.numpy import load

    path = maps_path(image_path(record, base).parent, record.id)
    try:
        maps: dict[str, NDArray[np.float32]] = load(path.read_bytes())
        for name, one in maps.items():
            if one.ndim != 2 or one.dtype != np.float32 or not one.size or not np.isfinite(one).all():
                raise ValueError(f"{name!r} is no map")
        return maps
    except FileNotFoundError:
        return {}
    except Exception as error:  # of damaged bytes, the library raises what it comes upon first
        raise RecordError(
            "unreadable_maps", f"{path}: not readable ({first_line(error)}); remove it, or generate it again"
        ) from None


def maps_bytes(maps: Mapping[str, NDArray[np.float32]]) -> bytes:
    """What the file of maps holds: the same bytes for the same maps."""
    from safetensors.numpy import save

    return save(dict(maps))
