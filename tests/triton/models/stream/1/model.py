"""Answers one request with many responses: its text, piece by piece.

PIECE_BYTES: length of a piece in bytes (characters may be cut); without it a piece is a word.
REPEAT: say the text so often.
DELAY_S: pause before each piece but the first. FIRST_DELAY_S: before that one, too.
FAIL_AFTER: break off with an error after so many.
MARKER: path of a file that tells how the request ended: ``finished`` or ``cancelled``. One of the
same name with ``.begun`` behind it tells that it has begun.
"""

import re
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(
                target=stream, args=(Options(request), request.get_response_sender()), daemon=True
            ).start()


class Options:
    def __init__(self, request):
        def read(name, default):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().reshape(-1)[0]

        self.text = bytes(read("TEXT", b""))
        self.piece_bytes = int(read("PIECE_BYTES", 0))
        self.repeat = int(read("REPEAT", 1))
        self.delay_s = float(read("DELAY_S", 0))
        self.first_delay_s = float(read("FIRST_DELAY_S", 0))
        self.fail_after = int(read("FAIL_AFTER", -1))
        self.marker = bytes(read("MARKER", b"")).decode()

    def pieces(self):
        if self.piece_bytes:
            size = self.piece_bytes
            once = [self.text[at : at + size] for at in range(0, len(self.text), size)]
        else:
            once = re.findall(rb"\S+\s*|\s+", self.text)
        return (piece for _ in range(self.repeat) for piece in once)


def stream(options, sender):
    ended = "finished"
    if options.marker:
        Path(options.marker + ".begun").touch()
    for number, piece in enumerate(options.pieces()):
        if number == options.fail_after:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("the model broke")))
            ended = "failed"
            break
        if not wait(options.delay_s if number else options.first_delay_s, sender):
            ended = "cancelled"
            break
        tensor = pb_utils.Tensor("PIECE", np.array([piece], dtype=np.object_))
        sender.send(pb_utils.InferenceResponse([tensor]))
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    if options.marker:
        Path(options.marker).write_text(ended)


def wait(delay_s, sender):
    until = time.monotonic() + delay_s
    while time.monotonic() < until:
        if sender.is_cancelled():
            return False
        time.sleep(min(0.01, delay_s))
    return not sender.is_cancelled()
