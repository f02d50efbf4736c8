"""A server for a detector by KServe's Open Inference Protocol, version 2, over HTTP.

It offers inference, metadata, health and metrics. kserve provides the protocol, the server and the Prometheus metrics;
:mod:`mofe.inference.detect` makes the predictions. A request is one batch. The model runs one batch at a time, because
a batch uses the whole device. Only one decoded image is in memory at a time.
"""

import asyncio
import base64
import binascii
import json
import re
import struct
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.infer_type import deserialize_bytes_tensor
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from kserve.utils.numpy_codec import to_np_dtype
from PIL import Image
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from mofe.errors import MofeError
from mofe.inference.detect import limit_of, predict
from mofe.inference.detector import Detector, load_detector
from mofe.inference.predictions import row_of

INPUT = {"name": "image", "datatype": "BYTES", "shape": [-1]}
DATA_URI = re.compile(r"^\s*data:[^,]*;base64,", re.IGNORECASE)
"""Prefix of a data URI, which browsers put before the base64 of a file."""
OUTPUTS = {
    "known": "BOOL",
    "class": "BYTES",
    "expert": "INT32",
    "probability": "FP32",
    "score": "FP32",
    "p_value": "FP32",
}
"""Names and types of the output tensors: columns of ``mofe detect``, one element per image."""


def serve(
    detector: str, *, port: int, name: str, threshold: str, score: str, max_megabytes: int, max_images: int
) -> None:
    """Answer requests until the process is terminated.

    Args:
        detector: path or URI of the detector's folder.
        port: port to listen on.
        name: the model's name in the address ``/v2/models/NAME/infer``.
        threshold: see :func:`mofe.detection.threshold.chosen_threshold`; ``fpr`` is unavailable here.
        score: name of the score that decides.
        max_megabytes: largest size of a request's body; a larger one is refused with status 413.
        max_images: largest number of images in a request.

    Raises:
        MofeError: there is no such detector, score or threshold.
    """
    predictor = Predictor(name, load_detector(detector), threshold, score, max_images)
    server = ModelServer(http_port=port, enable_grpc=False, workers=1)
    server.dataplane = _WholeFiles(model_registry=server.registered_models)
    server.model_repository_extension = _OneModel(model_registry=server.registered_models)
    app.add_middleware(_LimitedBody, max_bytes=max_megabytes << 20)
    app.add_exception_handler(HTTPException, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    server.start([predictor])


class Predictor(Model):
    """A detector that answers requests; it is ready once it has scored one image."""

    def __init__(self, name: str, detector: Detector, threshold: str, score: str, max_images: int):
        super().__init__(name)
        self.detector = detector
        self.score = score
        self.limit = limit_of(detector, threshold, score)
        self.max_images = max_images
        self.turn = asyncio.Lock()
        self._answers([Image.new("RGB", (32, 32))])  # loads everything that is loaded on first use
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The input tensor, for the model's metadata."""
        return [INPUT]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The output tensors, for the model's metadata."""
        return [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUTS.items()]

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> InferResponse:
        """Compute the tensors of :data:`OUTPUTS`, one element per image; an unusable image gives status 400."""
        files = image_files(payload, self.max_images)
        try:
            async with self.turn:
                rows = await asyncio.to_thread(self._answers, files)
        except MofeError as error:  # only an image can be the cause: the detector was loaded at the start
            raise HTTPException(400, str(error)) from error
        tensors = []
        for name, datatype in OUTPUTS.items():
            values = np.array([row[name] for row in rows], to_np_dtype(datatype))
            tensors.append(InferOutput(name, [len(rows)], datatype, values))
        return InferResponse(
            payload.id or str(uuid.uuid4()),
            self.name,
            tensors,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )

    def _answers(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        named = [(str(i), image) for i, image in enumerate(images)]
        return [row_of(v) for v in predict(self.detector, named, score=self.score, limit=self.limit)]


def image_files(request: Any, max_images: int) -> list[bytes]:
    """The image files in a request: a string is base64, because JSON has no bytes; bytes are the file itself.

    Raises:
        HTTPException: status 400; the message says what is wrong.
    """
    if not isinstance(request, InferRequest):
        raise HTTPException(400, "the request must follow version 2 of the protocol: POST /v2/models/NAME/infer")
    if [tensor.name for tensor in request.inputs] != [INPUT["name"]]:
        found = ", ".join(repr(tensor.name) for tensor in request.inputs) or "none"
        raise HTTPException(400, f"expected one input tensor, 'image'; found {found}")
    (tensor,) = request.inputs
    if tensor.datatype != INPUT["datatype"]:
        raise HTTPException(400, f"the tensor 'image' must be of datatype BYTES, not {tensor.datatype}")
    if list(tensor.shape) != [len(tensor.data)]:
        raise HTTPException(
            400,
            f"the tensor 'image' must have one dimension, the number of its images: for {len(tensor.data)} images the "
            f"shape [{len(tensor.data)}], not {list(tensor.shape)}",
        )
    if not 1 <= len(tensor.data) <= max_images:
        raise HTTPException(400, f"a request must hold 1 to {max_images} images, not {len(tensor.data)}")
    wanted = {output.name for output in request.request_outputs or ()}
    if unknown := sorted(wanted - OUTPUTS.keys()):
        raise HTTPException(400, f"there is no output {unknown[0]!r}; there are {', '.join(OUTPUTS)}")
    return [_file(i, element) for i, element in enumerate(tensor.data)]


def _file(position: int, element: Any) -> bytes:
    if isinstance(element, bytes):
        return element
    try:
        text = DATA_URI.sub("", element)
        return base64.b64decode("".join(text.split()), validate=True)  # encoders break lines after 76 characters
    except (binascii.Error, ValueError, TypeError) as error:
        found = f"it begins with {element[:20]!r}" if isinstance(element, str) else f"it is a {type(element).__name__}"
        raise HTTPException(
            400,
            f"image {position} is not the base64 of an image file ({error}): {found}; send the file's bytes in base64, "
            "not a path or URL",
        ) from error


class _WholeFiles(DataPlane):
    """Keeps binary tensors as bytes, because kserve 0.21 decodes them as UTF-8, and an image is not UTF-8."""

    def decode_inference_request(self, body: Any, headers: dict[str, str], model_name: str) -> InferRequest:
        if isinstance(body, bytes):
            body = _binary_request(body, headers.get("inference-header-content-length", ""))
        return super().decode_inference_request(body, headers, model_name)


def _binary_request(body: bytes, length: str) -> InferenceRequest:
    """Parse a request of the protocol's binary extension: ``length`` bytes of JSON, then the tensors' contents."""
    try:
        end = int(length)
        content = json.loads(body[:end])
        for tensor in content["inputs"]:
            if "data" not in tensor:
                size = tensor["parameters"]["binary_data_size"]
                tensor["data"] = deserialize_bytes_tensor(body[end : end + size]).tolist()
                end += size
        return InferenceRequest.model_validate(content)
    except ValidationError as error:
        raise HTTPException(400, _first(error.errors())) from error
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise HTTPException(
            400,
            "the body is neither JSON (Content-Type: application/json) nor a binary request, which is JSON of "
            f"Inference-Header-Content-Length bytes and then binary_data_size bytes per tensor: {error}",
        ) from error


class _OneModel(ModelRepositoryExtension):
    """Refuses to load or unload models, so that a client cannot remove the model."""

    async def load(self, model_name: str) -> None:
        raise NotImplementedError("this server does not load or unload models")

    unload = load


class _LimitedBody:
    """ASGI middleware that refuses a body over the limit, by its Content-Length or by the bytes that arrive."""

    def __init__(self, app: Any, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes
        self.reason = f"the body is larger than {max_bytes >> 20} MB"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        announced = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            await self._discard(receive)
            await JSONResponse({"error": self.reason}, 413)(scope, receive, send)
            return
        arrived = 0

        async def receive_counting() -> Any:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self.max_bytes:
                if message.get("more_body"):
                    await self._discard(receive)
                raise HTTPException(413, self.reason)
            return message

        await self.app(scope, receive_counting, send)

    async def _discard(self, receive: Any) -> None:
        """Drop the rest of the body, up to 8 times the limit, because most clients read only after sending all."""
        left = 8 * self.max_bytes
        while left > 0:
            message = await receive()
            if not message.get("more_body"):
                return
            left -= len(message["body"])


async def _answer_refusal(_: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": str(error.detail)}, error.status_code)


async def _answer_malformed(_: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse({"error": _first(error.errors())}, 400)


def _first(errors: Sequence[Any]) -> str:
    """The first error of a request, in one line."""
    place = ".".join(str(part) for part in errors[0]["loc"] if part not in ("body", "InferenceRequest"))
    return f"the request does not follow the Open Inference Protocol: {place or 'body'}: {errors[0]['msg']}"
