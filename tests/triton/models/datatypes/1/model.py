"""Takes any of the KServe datatypes and answers with the same values under the name ``X_OUT``."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([copy(tensor) for tensor in request.inputs()])
            for request in requests
        ]


def copy(tensor):
    name = f"{tensor.name()}_OUT"
    if tensor.name() == "BF16":  # numpy has no such type
        return pb_utils.Tensor.from_dlpack(name, tensor.to_dlpack())
    return pb_utils.Tensor(name, tensor.as_numpy())
