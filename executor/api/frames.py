"""Websocket frames as a server sends them (RFC 6455, section 5.2), several in one write.

A job of many small nodes makes thousands of small messages. Sent one by one, the system calls and
the waking of the reader cost more than all else that the front does for the job.
"""

import asyncio
import struct
from collections.abc import Iterable

from aiohttp import WSMsgType

UNSENT_BYTES = 256 * 2**10
"""What may wait in the transport before the sender waits, too."""

LOOK_AGAIN_S = 0.01


def frame(payload: str | bytes) -> bytes:
    """One message as one frame, unmasked."""
    if isinstance(payload, str):
        opcode, payload = WSMsgType.TEXT, payload.encode(errors="backslashreplace")
    else:
        opcode = WSMsgType.BINARY
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + payload


async def send(transport: asyncio.Transport, payloads: Iterable[str | bytes]) -> None:
    """Send messages; returns when the reader has taken most of them.

    Raises ConnectionError if it is gone.
    """
    if transport.is_closing():
        raise ConnectionResetError("the client is gone")
    transport.write(b"".join(map(frame, payloads)))
    while transport.get_write_buffer_size() > UNSENT_BYTES:
        await asyncio.sleep(LOOK_AGAIN_S)
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
