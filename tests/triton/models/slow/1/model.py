"""Answers after SECONDS, unless cancelled; writes how it ended into the file MARKER.

One of the same name with ``.begun`` behind it tells that it has begun.
"""

import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [answer(request) for request in requests]


def answer(request):
    seconds = float(pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy()[0])
    marker = pb_utils.get_input_tensor_by_name(request, "MARKER")
    if marker is not None:
        marker = Path(marker.as_numpy()[0].decode())
        marker.with_suffix(".begun").touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until and not request.is_cancelled():
        time.sleep(0.01)
    ended = "cancelled" if request.is_cancelled() else "finished"
    if marker is not None:
        marker.write_text(ended)
    output = pb_utils.Tensor("OUTPUT", np.array([ended.encode()], dtype=np.object_))
    return pb_utils.InferenceResponse([output])
