"""A frame of the video: pictures side by side, and below each its rewards and values so far."""

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from proximo.views.record.episode import Filmed

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

HEAD, STRIP, GAP = 22, 46, 6
"""Heights of the title and of a curve, and the room between, in pixels."""
SIZES = (12, 11, 10)
"""Of letters, in pixels."""
GROUND, INK, FAINT = (255, 255, 255), (30, 30, 30), (190, 190, 190)
REWARD, VALUE = (0, 114, 178), (213, 94, 0)  # blue and vermillion of Okabe and Ito


def frames(episodes: Sequence[Filmed]) -> Iterator["Image"]:
    """Every frame, all of one size, even in width and height (H.264 needs that); a shorter episode waits at its end."""
    from PIL import Image

    first = Image.open(io.BytesIO(episodes[0].pictures[0]))
    width, height = first.size
    strips = 1 + any(episode.values for episode in episodes)
    whole = (len(episodes) * (width + GAP) - GAP, HEAD + height + strips * (STRIP + GAP))
    whole = (whole[0] + whole[0] % 2, whole[1] + whole[1] % 2)
    for step in range(max(len(episode.pictures) for episode in episodes)):
        frame = Image.new("RGB", whole, GROUND)
        for i, episode in enumerate(episodes):
            _panel(frame, episode, step, i * (width + GAP), width, height)
        yield frame


def _panel(frame: "Image", episode: Filmed, step: int, left: int, width: int, height: int) -> None:
    from PIL import Image, ImageDraw

    now = min(step, len(episode.pictures) - 1)
    draw = ImageDraw.Draw(frame)
    total = sum(episode.rewards[: now + 1])
    over = f", {episode.ended}" if episode.ended and step >= len(episode.pictures) - 1 else ""
    _write(draw, (left + 4, 4), f"{episode.title}: step {now + 1}, return {total:,.1f}{over}", INK, width - 4)
    frame.paste(Image.open(io.BytesIO(episode.pictures[now])), (left, HEAD))
    top = HEAD + height + GAP
    _curve(draw, "reward", episode.rewards, now, REWARD, (left, top, width))
    if episode.values:
        _curve(draw, "value", episode.values, now, VALUE, (left, top + STRIP + GAP, width))


def _curve(
    draw: "ImageDraw",
    name: str,
    values: Sequence[float],
    now: int,
    colour: tuple[int, int, int],
    place: tuple[int, int, int],
) -> None:
    """A number's course up to now; its scale is that of the whole episode."""
    left, top, width = place
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    across = (width - 8) / max(1, len(values) - 1)
    points = [
        (left + 4 + across * i, top + STRIP - 2 - (STRIP - 16) * (value - low) / span)
        for i, value in enumerate(values[: now + 1])
    ]
    draw.line([(left + 4, top + STRIP - 1), (left + width - 4, top + STRIP - 1)], fill=FAINT)
    if len(points) > 1:
        draw.line(points, fill=colour, width=2)
    said = f"{name} {values[now]:.3g}  ({low:.3g} to {high:.3g})"
    _write(draw, (left + 4, top - 3), said, colour, width - 4)


def _write(draw: "ImageDraw", place: tuple[int, int], text: str, colour: tuple[int, int, int], width: int) -> None:
    """Text, in the largest letters that have room; in smaller ones than these a colon is lost in the letter before."""
    sizes = [size for size in SIZES if draw.textlength(text, font=_font(size)) <= width]
    draw.text(place, text, fill=colour, font=_font(sizes[0] if sizes else SIZES[-1]))


@cache
def _font(size: int) -> "ImageFont | FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)
