"""Puts ``Hello NAME: `` before a text; without a name, ``Hello: ``."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [answer(request) for request in requests]


def answer(request):
    text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[0]
    name = pb_utils.get_input_tensor_by_name(request, "NAME")
    hello = b"Hello" if name is None else b"Hello " + name.as_numpy()[0]
    greeting = np.array([hello + b": " + text], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor("GREETING", greeting)])
