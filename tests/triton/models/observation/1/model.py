"""Answers with one observation for each of its elements: one entity, labelled ``size``."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            media = pb_utils.get_input_tensor_by_name(request, "MEDIA").as_numpy()
            made = [observation(number, data) for number, data in enumerate(media, 1)]
            tensor = pb_utils.Tensor("OBSERVATIONS", np.array(made, dtype=np.object_))
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses


def observation(number, data):
    entity = {
        "id": f"entity-{number}",
        "block": {"text": f"{len(data)} bytes"},
        "label": "size",
        "type": "QUANTITY",
        "data": {"quantityValue": len(data)},
    }
    content = {
        "id": f"media-{number}",
        "mediaId": f"media-{number}",
        "documentPages": [{"page": 1, "document": {"id": f"page-{number}", "entities": [entity]}}],
    }
    return json.dumps({"mediaContents": [content]}, separators=(",", ":")).encode()
