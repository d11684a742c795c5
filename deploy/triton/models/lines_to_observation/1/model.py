"""Step 3 of ``invoice_ocr``: lines of text become an observation.

The reading of an invoice is in ``invoice_observation``, which knows nothing of Triton.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from invoice_observation import media_content
from invoice_rows import Line


class TritonPythonModel:
    """Triton's interface of a model."""

    def execute(self, requests):
        """One response for each request."""
        return [answer(request) for request in requests]


def answer(request):
    """The observation of one request's pictures."""
    pictures = pb_utils.get_input_tensor_by_name(request, "LINES").as_numpy()
    sizes = pb_utils.get_input_tensor_by_name(request, "SIZE").as_numpy()
    hashes = pb_utils.get_input_tensor_by_name(request, "HASH").as_numpy()
    media = pb_utils.get_input_tensor_by_name(request, "MEDIA")
    try:
        ids = media_ids(None if media is None else media.as_numpy()[0], len(pictures))
    except ValueError as error:
        refusal = pb_utils.TritonError(f"MEDIA: {error}", pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=refusal)
    contents = [
        media_content(
            [Line.of(line) for line in json.loads(found)["lines"]],
            media_id=media_id,
            width=int(width),
            height=int(height),
            image_hash=image_hash.decode(),
        )
        for found, (height, width), image_hash, media_id in zip(
            pictures, sizes, hashes, ids, strict=True
        )
    ]
    text = json.dumps({"mediaContents": contents}, ensure_ascii=False, separators=(",", ":"))
    observation = np.array([text.encode()], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor("OBSERVATION", observation)])


def media_ids(text, count):
    """The IDs of the pictures: those of the request's media, ``media-1`` and so on without them."""
    if text is None:
        return [f"media-{number}" for number in range(1, count + 1)]
    media = json.loads(text)
    listed = media if isinstance(media, list) else []
    ids = [one["id"] for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]
    if len(ids) != count or len(set(ids)) != count:
        raise ValueError(f"must be a JSON list of {count} objects, each with an id of its own")
    return ids
