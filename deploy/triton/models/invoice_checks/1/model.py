"""A decoupled model: one invoice in, one response for each finding, as the work goes on.

The checks themselves are in ``invoice_arithmetic``, which knows nothing of Triton.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils
from invoice_arithmetic import findings, read_view


class TritonPythonModel:
    """Triton's interface of a model."""

    def initialize(self, args):
        """Read the parameters. Answers come from threads: ``execute`` must not wait for them."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.pause_s = int(parameters["pause_ms"]["string_value"]) / 1000
        self.pool = ThreadPoolExecutor(int(parameters["threads"]["string_value"]))

    def execute(self, requests):
        """Nothing is returned: each request's responses go through its sender."""
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "INVOICE").as_numpy()[0]
            self.pool.submit(self.answer, bytes(data), request.get_response_sender())

    def answer(self, data, sender):
        """All responses of one request, unless its caller goes away."""
        try:
            for finding in findings(read_view(data)):
                time.sleep(self.pause_s)
                if sender.is_cancelled():
                    break
                text = np.array([f"{finding}\n".encode()], dtype=np.object_)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("FINDING", text)]))
        except ValueError as error:
            refuse(sender, f"INVOICE: {error}", pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001  whatever it is, somebody waits for an end
            refuse(sender, f"the checks broke: {error!r}", pb_utils.TritonError.INTERNAL)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        """Wait for the checks that run."""
        self.pool.shutdown(cancel_futures=True)


def refuse(sender, message, code):
    """An error in place of a finding."""
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)))
