"""Decoding in a process of its own, which can be ended, where it may take any time and memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from PIL import Image

from triptych.data.photos import MAX_PIXELS, MAX_SECONDS, Unbounded, Unreadable, decode_image

ANSWER = """import sys
sys.path.insert(0, sys.argv[2])
from triptych.data.decoder import answer_requests
answer_requests(int(sys.argv[1]))"""
INFO = {"max_value", "own_range"}  # what `decode_image` adds
idle: list["Decoder"] = []


def read_image(source: Path | bytes, **options: Any) -> Image.Image:
    """As `decode_image`, with a process for the formats that few use; threads may share it."""
    with suppress(Unbounded):
        return decode_image(source, bounded=True, **options)
    try:
        decoder = idle.pop()
    except IndexError:
        decoder = Decoder()
    try:
        return decoder.read_image(source, **options)
    finally:
        idle.append(decoder)


class Decoder:
    """A process that decodes images, for one thread, each in at most `seconds` of processor time.

    It starts with the first image, and again after one that ended it.
    """

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.pipe, theirs = Pipe()
        with theirs:
            arguments = [str(theirs.fileno()), str(Path(__file__).parents[2])]
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", ANSWER, *arguments],  # imports nothing from here
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libtiff writes there
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # each would reserve memory
                start_new_session=True,  # Ctrl-C is for its parent
            )
        self.end = weakref.finalize(self, end_process, process, self.pipe)
        return process

    def read_image(self, source: Path | bytes, **options: Any) -> Image.Image:
        """As `decode_image`, but nothing can end or fill more than the process."""
        if self.process is None or self.process.poll() is not None:
            self.process = self.start()
        path = None if isinstance(source, bytes) else str(source.absolute())
        try:
            self.pipe.send_bytes(json.dumps([path, self.seconds, options]).encode())
            if isinstance(source, bytes):
                self.pipe.send_bytes(source)
            size, info = json.loads(self.pipe.recv_bytes())
            if not size:
                raise Unreadable(info)
            image = Image.frombytes("RGB", size, self.pipe.recv_bytes())
        except (OSError, EOFError) as error:
            is_late, self.process = self.end() == -signal.SIGPROF, None
            late = f"takes more than {self.seconds} s to decode"
            raise Unreadable(late if is_late else "ended its decoder") from error
        image.info = info
        return image

    def kill(self) -> None:
        """End what another thread decodes."""
        if self.process:
            self.process.kill()


def end_process(process: subprocess.Popen[bytes], pipe: Connection) -> int:
    """Whatever it does; returns its exit code."""
    process.kill()
    pipe.close()
    return process.wait()


def answer_requests(number: int) -> None:
    """Decode what a `Decoder` sends by a descriptor, until its other end is closed."""
    pipe = Connection(number)
    with suppress(EOFError):
        while True:
            path, seconds, options = json.loads(pipe.recv_bytes())
            source = pipe.recv_bytes() if path is None else Path(path)
            limit_memory(options.get("max_pixels", MAX_PIXELS))
            signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
            try:
                image = decode_image(source, **options)
            except Unreadable as error:
                pipe.send_bytes(json.dumps([None, str(error)]).encode())
            else:
                info = {key: image.info[key] for key in INFO & image.info.keys()}
                pipe.send_bytes(json.dumps([image.size, info]).encode())
                pipe.send_bytes(image.tobytes())
            signal.setitimer(signal.ITIMER_PROF, 0)


def limit_memory(max_pixels: int) -> None:
    """Of this process: what Python needs, and twice what JPEG 2000 takes for so many pixels."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = 2**31 + 40 * max_pixels
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
