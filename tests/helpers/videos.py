"""Videos, read back by a decoder."""

import imageio_ffmpeg
import numpy as np


def pictures(file):
    """What the decoder says of it, and its frames."""
    reader = imageio_ffmpeg.read_frames(str(file))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
