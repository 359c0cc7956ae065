"""Frames as MP4 or GIF."""

from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from proximo.errors import UserError
from proximo.runs.storage.files import user_error

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = (".mp4", ".gif")
GIF_RATE = 20.0
"""Frames per second of a GIF at most: browsers slow faster ones down."""


def check_packages(kind: str) -> None:
    """See that what makes a video is installed.

    Args:
        kind: one of `KINDS`.

    Raises:
        UserError: it is not.
    """
    if find_spec("PIL") is None or (kind == ".mp4" and find_spec("imageio_ffmpeg") is None):
        raise UserError("a video needs packages that are not installed: `pip install 'proximo[video]'`")


def write(frames: Iterator["Image"], file: Path, rate: float) -> None:
    """Write a video whole or not at all.

    Args:
        frames: of one size.
        file: ends in one of `KINDS`.
        rate: frames per second.

    Raises:
        UserError: a package is missing, or the disk refuses.
    """
    unfinished = file.with_name(f".{file.name}.tmp{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()  # what the disk refuses is said by the system, and not by ffmpeg
        (_gif if file.suffix == ".gif" else _mp4)(frames, unfinished, rate)
        unfinished.replace(file)
    except OSError as error:
        raise user_error(error, file) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _mp4(frames: Iterator["Image"], file: Path, rate: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError("an MP4 needs a package: `pip install 'proximo[video]'`, or name a .gif by --out") from error
    first = next(frames)
    writer: Any = imageio_ffmpeg.write_frames(
        str(file), first.size, fps=rate, codec="libx264", macro_block_size=2, ffmpeg_log_level="error"
    )
    writer.send(None)
    for frame in chain([first], frames):
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _gif(frames: Iterator["Image"], file: Path, rate: float) -> None:
    every = max(1, round(rate / GIF_RATE))
    kept = [frame.quantize(64) for i, frame in enumerate(frames) if i % every == 0]
    milliseconds = max(20, round(1000 * every / rate))
    kept[0].save(file, save_all=True, append_images=kept[1:], duration=milliseconds, loop=0)
