"""The detector asked over HTTP: its answers are those of Detector.score, and what is wrong is said in one line."""

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import artifact_paths, command_line, striped

from mofe import load_detector
from mofe.inference.server import _file

pytestmark = pytest.mark.integration

pytest.importorskip("kserve", reason="serving is an extra: pip install 'mofe[serve]'")

RNG = np.random.default_rng(9)
IMAGES = [striped(i % 4, RNG) for i in range(8)]
INFER = "/v2/models/stripes/infer"


@pytest.fixture(scope="module")
def server(_detector: Path) -> Iterator[SimpleNamespace]:
    """``mofe serve`` in a process of its own: ``port``, and ``detector`` to compare with."""
    detector = artifact_paths(_detector).detector
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mofe", "serve", "--detector", detector, "--port", str(port)]
    command += ["--name", "stripes", "--max-megabytes", "1", "--max-images", "8"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/stripes/ready"):
                break
        except OSError:
            assert process.poll() is None, "the server has ended"
            time.sleep(0.2)
    yield SimpleNamespace(port=port, detector=load_detector(detector))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def ask(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and answer of one request; a body that is no bytes goes as JSON."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, given)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            text, status = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        text, status = error.read(), error.code
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def question(images: list[bytes], **changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data, **changes}]}


def columns(answer: Any) -> dict[str, Any]:
    assert isinstance(answer, dict), answer
    return {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}


def test_answers_are_the_detectors(server: SimpleNamespace) -> None:
    status, answer = ask(server.port, INFER, {**question(IMAGES), "id": "mine"})
    assert (status, answer["id"], answer["model_name"]) == (200, "mine", "stripes")
    kinds = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in answer["outputs"]}
    assert kinds == {
        "known": ("BOOL", [8]), "class": ("BYTES", [8]), "expert": ("INT32", [8]),
        "probability": ("FP32", [8]), "score": ("FP32", [8]), "p_value": ("FP32", [8]),
    }  # fmt: skip
    found, expected = columns(answer), server.detector.score(IMAGES)
    assert found["class"] == [server.detector.classes[c] for c in expected.predicted_B]
    assert found["expert"] == expected.expert_B.tolist()
    np.testing.assert_allclose(found["score"], expected.values["knn"], rtol=1e-5)
    np.testing.assert_allclose(found["probability"], expected.values["msp"], rtol=1e-5)
    np.testing.assert_allclose(found["p_value"], server.detector.p_values(expected), rtol=1e-6)
    assert found["known"] == [score >= server.detector.thresholds["knn"] for score in found["score"]]


def test_concurrent_requests_get_their_own_answers(server: SimpleNamespace) -> None:
    """Each asks about other images; the answers are those of the same images asked alone."""
    groups = [[IMAGES[i % 8], IMAGES[(3 * i + 1) % 8]] for i in range(16)]
    alone = [columns(ask(server.port, INFER, question(group))[1]) for group in groups]
    assert len({tuple(found["score"]) for found in alone}) > 4
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda group: columns(ask(server.port, INFER, question(group))[1]), groups))
    assert together == alone


def test_image_files_as_they_are_and_chosen_outputs(server: SimpleNamespace) -> None:
    """The protocol's binary extension needs no base64; an answer has the outputs that were asked for."""
    files = b"".join(struct.pack("<I", len(image)) + image for image in IMAGES[:3])
    tensor = {"name": "image", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(files)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "score"}]}).encode()
    kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    status, answer = ask(server.port, INFER, head + files, **kind)
    assert status == 200, answer
    expected = columns(ask(server.port, INFER, question(IMAGES[:3]))[1])
    assert columns(answer) == {"score": expected["score"]}
    for body, length in ((head + files[:-1], len(head)), (head, -4), (head + files, "x"), (b"[]", 2)):
        status, answer = ask(server.port, INFER, body, **{**kind, "Inference-Header-Content-Length": str(length)})
        assert status == 400
        assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (question([b"no image"]), 400, "image 0 cannot be scored: it is not an image that can be read"),
        (question([IMAGES[0], IMAGES[1][:80]]), 400, "image 1 cannot be scored: "),
        (question([IMAGES[0]], data=["%%"]), 400, "image 0 is not the base64 of an image file"),
        (question([IMAGES[0]], data=[7]), 400, "image 0 is not the base64 of an image file"),
        (question([IMAGES[0]], name="picture"), 400, "expected one input tensor, 'image'; found 'picture'"),
        (question([IMAGES[0]], datatype="FP32"), 400, "must be of datatype BYTES, not FP32"),
        (question([IMAGES[0]], shape=[1, 1]), 400, "must have one dimension, the number of its images"),
        (question([IMAGES[0]], data=["https://x/a.png"]), 400, "it begins with 'https://x/a.png'; send the file's"),
        (question([IMAGES[0]], shape=[2]), 400, "for 1 images the shape [1], not [2]"),
        (question([]), 400, "must hold 1 to 8 images, not 0"),
        (question(IMAGES + IMAGES[:1]), 400, "must hold 1 to 8 images, not 9"),
        (
            {**question([IMAGES[0]]), "outputs": [{"name": "colour"}]},
            400,
            "there is no output 'colour'; there are known",
        ),
        ({"inputs": []}, 400, "expected one input tensor, 'image'; found none"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, 400, "inputs.0.data: Field required"),
        ({}, 400, "inputs: Field required"),
        (b"{", 400, "JSON"),
        (question([bytes(1 << 20)]), 413, "the body is larger than 1 MB"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(server: SimpleNamespace, body: Any, status: int, message: str) -> None:
    found, answer = ask(server.port, INFER, body)
    assert found == status, answer
    assert list(answer) == ["error"]
    assert message in answer["error"]
    assert "\n" not in answer["error"]
    assert ask(server.port, INFER, question(IMAGES[:1]))[0] == 200, "it goes on answering"


def test_an_image_of_too_many_pixels(server: SimpleNamespace) -> None:
    """Refused by what its header says, before it is decoded: these bytes hold no pixels at all."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    huge += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    status, answer = ask(server.port, INFER, question([huge]))
    assert (status, "100,000,000" in answer["error"]) == (400, True), answer


@pytest.mark.parametrize("megabytes", [2, 6])
@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_and_the_client_hears_why(
    server: SimpleNamespace, announced: bool, megabytes: int
) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (b" " * 65536 for _ in range(16 * megabytes))
    given = {"Content-Type": "application/json"} | ({"Content-Length": str(megabytes << 20)} if announced else {})
    connection.request("POST", INFER, body=pieces, headers=given, encode_chunked=not announced)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (413, {"error": "the body is larger than 1 MB"})


def test_health_metadata_and_metrics(server: SimpleNamespace) -> None:
    assert ask(server.port, "/v2/health/live") == (200, {"live": True})
    assert ask(server.port, "/v2/health/ready") == (200, {"ready": True})
    assert ask(server.port, "/v2/models/stripes/ready") == (200, {"name": "stripes", "ready": True})
    assert ask(server.port, "/v2/models/other/infer", question(IMAGES[:1]))[0] == 404
    _, metadata = ask(server.port, "/v2/models/stripes")
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [t["name"] for t in metadata["outputs"]] == ["known", "class", "expert", "probability", "score", "p_value"]
    ask(server.port, INFER, question(IMAGES[:1]))
    metrics = ask(server.port, "/metrics")[1].decode()
    assert 'request_predict_seconds_count{model_name="stripes"}' in metrics


def test_nobody_can_take_the_model_away(server: SimpleNamespace) -> None:
    assert ask(server.port, "/v2/repository/models/stripes/unload", {})[0] == 501
    assert ask(server.port, "/v1/models/stripes:predict", {"instances": [1]})[0] == 400
    assert ask(server.port, INFER, question(IMAGES[:1]))[0] == 200


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--detector", "/no/such"], "there is no detector at"),
        (["--score", "odin"], "score = 'odin' is not one of knn, msp"),
        (["--score", "text.mcm"], "has no score 'text.mcm'"),
        (["--threshold", "fpr=0.1"], "needs examples of unknown images"),
    ],
)
def test_a_server_that_could_not_answer_does_not_start(_detector: Path, option: list[str], message: str) -> None:
    done = command_line("serve", "--detector", artifact_paths(_detector).detector, *option)
    assert (done.code, message in done.err) == (1, True), done.err


def test_base64_as_browsers_and_encoders_write_it_is_read() -> None:
    content = bytes(range(256))
    broken = base64.encodebytes(content).decode()
    assert "\n" in broken
    for text in (broken, broken.replace("\n", "\r\n"), f"data:image/png;base64,{broken}", f" {broken} "):
        assert _file(0, text) == content
