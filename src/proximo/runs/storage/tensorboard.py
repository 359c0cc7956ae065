"""TensorBoard scalars without torch's writer, whose import costs more than a second of every start.

An event file is a row of records: length, checksum, protobuf, checksum. The protobuf classes are TensorBoard's own.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from proximo.runs.storage.files import append, user_error


class TensorBoardWriter:
    """Writes one event file.

    Args:
        folder: Where TensorBoard looks; made when absent.
        resume_after: The last step that counts of the files already there: TensorBoard forgets later ones.

    Raises:
        UserError: The file cannot be written (here and in `write`).
    """

    def __init__(self, folder: Path, *, resume_after: int | None = None) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        try:
            folder.mkdir(exist_ok=True)
            self._descriptor: int | None = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666
            )
        except OSError as error:
            raise user_error(error, self._path) from error
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_after is not None:
            start = SessionLog(status=SessionLog.START)
            self._append(Event(wall_time=time.time(), step=resume_after + 1, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of one step and hands them to the operating system."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _append(self, event: Event) -> None:
        if self._descriptor is None:
            raise ValueError("the event file is closed")
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        record = length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))
        try:
            append(self._descriptor, record)
        except OSError as error:
            raise user_error(error, self._path) from error


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)  # the Castagnoli polynomial, bits reversed
        table.append(byte)
    return table


_TABLE = _crc32c_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF  # as TFRecord masks it
