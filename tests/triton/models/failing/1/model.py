"""Fails with the sentence it is given; with ``raise`` in it by an exception instead."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [answer(request) for request in requests]


def answer(request):
    text = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[0].decode()
    if "raise" in text:
        raise ValueError(text)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))
