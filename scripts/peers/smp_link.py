"""Carries a file over a serial line by mcumgr's SMP; run by the example `line` of graft-deploy.

    smp_link.py receive PORT FRAMING BUFFER FILE
    smp_link.py send    PORT FRAMING BUFFER FILE

FRAMING is console (base64 in lines of at most 127 bytes, which every device speaks) or raw (messages as they are, Zephyr 4.4 and
newer). BUFFER is the device's CONFIG_MCUMGR_TRANSPORT_NETBUF_SIZE.

`send` is smpclient with nothing changed; it prints the seconds from opening the port to the last answer. `receive` is a device that
answers as Zephyr's image management does, but at once, for it erases and writes no flash: framing and messages are written from
Zephyr's documents (SMP over console, SMP protocol, groups 0 and 1), not taken from the client's library. It prints `ready`, and ends
well when all is there and has the SHA-256 that the client gave.
"""

import asyncio
import base64
import binascii
import hashlib
import os
import struct
import sys
import time

import cbor2
import serial

HEADER = struct.Struct("!BBHHBB")
PATIENCE_S = 60
LINE_MAX = 127
# Length and check, which share the buffer with a message.
FRAME_BYTES = 4
READ, WRITE = 0, 2
OS, IMAGE = 0, 1
PARAMETERS, UPLOAD = 6, 1
# Of group 0: invalid value, not supported.
EINVAL, ENOTSUP = 3, 8
BUFFERS = 4


class Line:
    """The device's end of the line: messages in, messages out."""

    def __init__(self, port, framing, buffer_len):
        self.port = serial.Serial(port, 115200, timeout=PATIENCE_S)
        self.is_raw = framing == "raw"
        self.buffer_len = buffer_len
        self.bytes = b""

    def read(self):
        come = self.port.read(max(1, self.port.in_waiting))
        if not come:
            sys.exit(f"expected a message within {PATIENCE_S} s, found silence")
        self.bytes += come

    def take(self, length):
        while len(self.bytes) < length:
            self.read()
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken

    def message(self):
        if self.is_raw:
            header = self.take(HEADER.size)
            body_len = HEADER.unpack(header)[2]
            if HEADER.size + body_len > self.buffer_len:
                sys.exit(f"expected messages of at most {self.buffer_len} bytes, found {HEADER.size + body_len}")
            return header + self.take(body_len)
        packet = None
        while True:
            while b"\n" not in self.bytes:
                self.read()
            line, self.bytes = self.bytes.split(b"\n", 1)
            # What a device has no room for it drops; here it is a client that was told wrong.
            if len(line) + 1 > LINE_MAX:
                sys.exit(f"expected lines of at most {LINE_MAX} bytes, found {len(line) + 1}")
            start, part = line[:2], line[2:]
            if start == b"\x06\x09":
                packet = b""
            elif start != b"\x04\x14" or packet is None:
                continue
            packet += base64.b64decode(part, validate=True)
            if len(packet) > self.buffer_len:
                sys.exit(f"expected messages of at most {self.buffer_len - FRAME_BYTES} bytes, found a longer one")
            wanted = 2 + int.from_bytes(packet[:2], "big")
            if len(packet) >= wanted:
                body, check = packet[2 : wanted - 2], packet[wanted - 2 : wanted]
                if binascii.crc_hqx(body, 0) == int.from_bytes(check, "big"):
                    return body
                packet = None

    def answer(self, message):
        if self.is_raw:
            self.port.write(message)
        else:
            length = (len(message) + 2).to_bytes(2, "big")
            text = base64.b64encode(length + message + binascii.crc_hqx(message, 0).to_bytes(2, "big"))
            # Whole groups of four.
            most = (LINE_MAX - 3) // 4 * 4
            for at in range(0, len(text), most):
                self.port.write((b"\x04\x14" if at else b"\x06\x09") + text[at : at + most] + b"\n")
        self.port.flush()


def receive(port, framing, buffer_len, file):
    line = Line(port, framing, buffer_len)
    print("ready", flush=True)
    image, length, digest = b"", None, None
    while True:
        message = line.message()
        op_and_version, _, _, group, sequence, command = HEADER.unpack(message[: HEADER.size])
        asked, is_done = cbor2.loads(message[HEADER.size :]), False
        request = (op_and_version & 7, group, command)
        if request == (READ, OS, PARAMETERS):
            told = {"buf_size": buffer_len, "buf_count": BUFFERS}
        elif request != (WRITE, IMAGE, UPLOAD):
            told = {"rc": ENOTSUP}
        elif asked["off"] == 0 and "len" not in asked:
            told = {"rc": EINVAL}
        else:
            # The same upload anew goes on where it was; any other begins.
            if asked["off"] == 0 and (digest is None or asked.get("sha") != digest):
                image, length, digest = b"", asked["len"], asked.get("sha")
            if asked["off"] == len(image):
                image += asked["data"]
            told = {"off": len(image)}
            is_done = len(image) == length
            if is_done:
                told["match"] = hashlib.sha256(image).digest() == digest
        body = cbor2.dumps(told)
        line.answer(HEADER.pack(op_and_version + 1, 0, len(body), group, sequence, command) + body)
        if is_done:
            if not told["match"]:
                sys.exit(f"expected an image of SHA-256 {(digest or b'').hex()}, found {hashlib.sha256(image).hexdigest()}")
            with open(f"{file}.part", "wb") as out:
                out.write(image)
            os.replace(f"{file}.part", file)
            return


async def send(port, framing, buffer_len, file):
    from smpclient import SMPClient
    from smpclient.transport.serial import SMPSerialRawTransport, SMPSerialTransport

    with open(file, "rb") as opened:
        image = opened.read()
    # By console the client asks the device for its buffer, and fills it.
    transport = SMPSerialRawTransport(mtu=buffer_len) if framing == "raw" else SMPSerialTransport()
    start = time.perf_counter()
    async with SMPClient(transport, port) as client:
        async for _ in client.upload(image):
            pass
        print(time.perf_counter() - start)


def main():
    role, port, framing, buffer_len, file = sys.argv[1:]
    if role not in ("send", "receive") or framing not in ("console", "raw"):
        sys.exit(f"expected send or receive, and console or raw, found {role} and {framing}")
    if role == "receive":
        receive(port, framing, int(buffer_len), file)
    else:
        asyncio.run(send(port, framing, int(buffer_len), file))


if __name__ == "__main__":
    main()
