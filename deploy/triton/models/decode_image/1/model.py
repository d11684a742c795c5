"""Step 1 of ``invoice_ocr``: image files become pixels.

Pictures of one request differ in size, so they cannot share one array: each travels as the bytes of
its pixels, with its height and width beside it.
"""

import hashlib
import io

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, ImageOps, UnidentifiedImageError

PIXELS_MAX = 50_000_000
IMAGES_MAX = 64


class TritonPythonModel:
    """Triton's interface of a model."""

    def execute(self, requests):
        """One response for each request."""
        return [answer(request) for request in requests]


def answer(request):
    """The pictures of one request, or an error that says which is none."""
    files = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
    try:
        if not 1 <= len(files) <= IMAGES_MAX:
            raise ValueError(f"IMAGE has {len(files)} elements; it takes 1 to {IMAGES_MAX}")
        pictures = [decode(number, data) for number, data in enumerate(files)]
    except ValueError as error:
        refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=refusal)
    hashes = [hashlib.sha256(data).hexdigest().encode() for data in files]
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("PIXELS", elements([picture.tobytes() for picture in pictures])),
            pb_utils.Tensor(
                "SIZE", np.array([picture.shape[:2] for picture in pictures], dtype=np.int32)
            ),
            pb_utils.Tensor("HASH", elements(hashes)),
        ]
    )


def decode(number, data):
    """One file as an array of height, width and the colours blue, green, red.

    Raises ValueError where the file is no image, or too large a one.
    """
    what = f"IMAGE[{number}] ({len(data)} bytes)"
    if data.startswith(b"%PDF"):
        raise ValueError(f"{what} is a PDF, not an image; its pages can be sent as images")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > PIXELS_MAX:
                raise ValueError(
                    f"{what} has {width} x {height} pixels; at most {PIXELS_MAX} are read"
                )
            # A phone writes down how it was held instead of turning the picture.
            upright = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(np.asarray(on_white(upright))[:, :, ::-1])
    except UnidentifiedImageError as error:
        raise ValueError(f"{what} is not an image of a known format") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} is a damaged image: {error}") from error


def on_white(image):
    """The picture in RGB; what is transparent in it is white, as paper is."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, with_alpha).convert("RGB")
    return image.convert("RGB")


def elements(values):
    """A BYTES tensor's value."""
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array
