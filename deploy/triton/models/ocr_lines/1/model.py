"""Step 2 of ``invoice_ocr``: text is found in pixels and read, with RapidOCR on ONNX Runtime."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from rapidocr_onnxruntime import RapidOCR


class TritonPythonModel:
    """Triton's interface of a model."""

    def initialize(self, args):
        """Load the networks, which come with the RapidOCR package."""
        parameters = json.loads(args["model_config"])["parameters"]
        threads = int(parameters["threads"]["string_value"])
        self.read = RapidOCR(intra_op_num_threads=threads, inter_op_num_threads=1)

    def execute(self, requests):
        """One response for each request."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """The lines of each picture of one request."""
        pictures = pb_utils.get_input_tensor_by_name(request, "PIXELS").as_numpy()
        sizes = pb_utils.get_input_tensor_by_name(request, "SIZE").as_numpy()
        found = np.empty(len(pictures), dtype=np.object_)
        for number, (data, (height, width)) in enumerate(zip(pictures, sizes, strict=True)):
            if request.is_cancelled():  # nobody waits any more; a picture takes seconds
                return pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled"))
            pixels = np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
            found[number] = json.dumps({"lines": self.lines(pixels)}).encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor("LINES", found)])

    def lines(self, pixels):
        """The lines of one picture, in the order in which RapidOCR finds them."""
        read, _ = self.read(pixels)
        return [
            {
                "text": text,
                "score": round(float(score), 4),
                "points": [[round(float(x), 1), round(float(y), 1)] for x, y in points],
            }
            for points, text, score in read or []
        ]
