"""The server on loopback: answers as the command gives them, limits, and hostile uploads."""

from __future__ import annotations

import http.client
import io
import json
import re
import struct
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra ui is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra ui is not installed")
pytest.importorskip("multipart", reason="the extra ui is not installed")

from click.testing import CliRunner  # noqa: E402
from PIL import Image  # noqa: E402

from cli import leak  # noqa: E402
from leaknet.commands.runs import _listen  # noqa: E402
from leaknet.explain import explain_image  # noqa: E402
from leaknet.explain.page import keyed_figures, render  # noqa: E402
from leaknet.scoring.predict import Predictor  # noqa: E402
from leaknet.serve.app import create_app  # noqa: E402
from leaknet.serve.requests import AT_ONCE, Jobs, Limits, Upload  # noqa: E402  # noqa: E402
from tests.leaknet.small_run import small_run  # noqa: E402
from tests.tiny_data import tiny_image  # noqa: E402

LIMITS = Limits(
    request_bytes=2**20,
    image_bytes=2**18,
    unpacked_bytes=2**20,
    pixels=10_000,
    images=20,
    waiting=1,
)
Files = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Reply:
    """Status and body of a response."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The JSON value of the body."""
        return json.loads(self.body)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    small_run(root)
    return root


@pytest.fixture(scope="module")
def predictor(project: Path) -> Predictor:
    return Predictor(project / "run", device="cpu")


@contextmanager
def serving(predictor: Predictor, limits: Limits = LIMITS, token: str = "") -> Iterator[str]:
    config = uvicorn.Config(create_app(predictor, limits, token), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    with _listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(predictor: Predictor) -> Iterator[str]:
    with serving(predictor) as address:
        yield address


def ask(url: str, data: bytes | None = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, named), timeout=60) as found:
            return Reply(found.status, found.read(), dict(found.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.read(), dict(error.headers))


def send(address: str, files: Files, query: str = "", to: str = "score", **headers: str) -> Reply:
    kind, body = multipart(files)
    return ask(f"{address}/v1/{to}{query}", body, Content_Type=kind, **headers)


def multipart(files: Files) -> tuple[str, bytes]:
    """Content type and body of a form of files."""
    head = '--border\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n'
    parts = [head.format(name).encode() + data + b"\r\n" for name, data in files]
    return "multipart/form-data; boundary=border", b"".join(parts) + b"--border--\r\n"


def png(seed: int, size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    tiny_image(seed, size).save(file, "PNG")
    return file.getvalue()


def zipped(files: Files) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def test_an_upload_gets_the_answer_of_the_command(
    project: Path, address: str, tmp_path: Path
) -> None:
    names = ["a.png", "b.png"]
    files = [(name, png(seed)) for seed, name in enumerate(names)]
    for name, data in files:
        (tmp_path / name).write_bytes(data)
    words = ["score", *(str(tmp_path / name) for name in names), "--run", str(project / "run")]
    said = CliRunner().invoke(leak, [*words, "--alpha", "0.3", "--json"], catch_exceptions=False)
    expected = json.loads(said.stdout)
    for one, name in zip(expected["images"], names, strict=True):
        one["path"] = name
    reply = send(address, files, "?alpha=0.3").json
    assert reply.keys() == expected.keys()
    assert reply["calibration"] == expected["calibration"]
    assert reply["images"] == expected["images"]
    found = send(address, [("x.zip", zipped(files))], "?alpha=0.3").json["images"]
    for one, answer in zip(found, expected["images"], strict=True):
        assert one == {**answer, "path": f"x.zip/{answer['path']}"}
    packed = [("x.zip", zipped([(f"{row}/{name}", d) for row in range(5) for name, d in files]))]
    stream = send(address, packed, "?alpha=0.3&stream=true")
    parts = [json.loads(line) for line in stream.body.splitlines()]
    assert [(len(part["images"]), part["total"]) for part in parts] == [(AT_ONCE, 10), (2, 10)]
    answers = [one["answer"] for part in parts for one in part["images"]]
    assert answers == [one["answer"] for one in expected["images"]] * 5
    stable = send(address, files[:1], "?stability=true").json["images"][0]["stability"]
    assert stable["of"] == 8


def test_what_is_no_image_has_a_reason_and_the_rest_is_scored(address: str) -> None:
    large = io.BytesIO()
    Image.new("L", (101, 100)).save(large, "PNG")
    files = [
        ("junk.png", b"junk"),
        ("empty.png", b""),
        ("good.png", png(1)),
        ("large.png", large.getvalue()),
        ("long.png", png(2) + bytes(2**18)),
        ("cut.zip", zipped([("a.png", png(3))])[:-30]),
    ]
    images = send(address, files).json["images"]
    reasons = {one["path"]: one["reason"] for one in images}
    assert [one["path"] for one in images] == [name for name, _ in files]
    assert reasons.pop("good.png") == ""
    assert "not an image" in reasons["junk.png"]
    assert "empty" in reasons["empty.png"]
    assert reasons["large.png"] == "101x100 is more than 10,000 pixels"
    assert reasons["long.png"] == "more than 262,144 bytes"
    assert reasons["cut.zip"].startswith("cannot be unpacked")


def test_a_zip_bomb_and_names_that_leave_the_folder_do_no_harm(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = zipped([("bomb.png", bytes(2**26)), ("good.png", png(4))])
    assert len(bomb) < 2**19
    first, second = send(address, [("bomb.zip", bomb)]).json["images"]
    assert first["reason"] == "more than 262,144 bytes"
    assert second["reason"] == ""
    evil = zipped(
        [("../../evil.png", png(5)), ("/etc/evil.png", png(6)), ("__MACOSX/._a.png", b"")]
    )
    files = [("../evil.png", png(7)), ("evil.zip", evil), ("<img src=x>.png", png(8))]
    images = send(address, files).json["images"]
    assert [one["reason"] for one in images] == [""] * 4
    assert images[1]["path"] == "evil.zip/../../evil.png"
    assert list(tmp_path.rglob("*evil*")) == []
    entries = 30_000
    many = zipped([("a.txt", b"")])
    start, place = many.index(b"PK\1\2"), many.rindex(b"PK\5\6")
    directory = many[start:place] * entries
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), 0, 0)
    reply = send(address, [("many.zip", many[:start] + directory[: 2**19] + end)])
    assert "too many entries" in reply.body.decode()


def test_too_much_is_refused_whole(address: str) -> None:
    tiny = png(9, (8, 8))
    assert send(address, [(f"{row}.png", tiny) for row in range(100)]).status == 400
    inside = send(address, [("x.zip", zipped([(f"{row}.png", tiny) for row in range(21)]))])
    assert (inside.status, inside.json["detail"]) == (
        400, "more than 20 images: send fewer at a time",
    )  # fmt: skip
    assert send(address, []).status == 400
    assert ask(f"{address}/v1/score", b"{}", Content_Type="application/json").status == 400
    assert send(address, [("a.png", tiny)], "?alpha=2").status == 422
    assert send(address, [("huge.png", bytes(2**20))]).status == 413


def test_other_sites_and_other_names_are_refused(address: str) -> None:
    host = address.removeprefix("http://")
    assert ask(f"{address}/healthz", Host="evil.example").status == 403
    assert ask(f"{address}/healthz", Origin="http://evil.example").status == 403
    assert ask(f"{address}/healthz", Origin=f"http://{host}").status == 200


def test_with_a_token_only_page_and_health_are_open(predictor: Predictor) -> None:
    with serving(predictor, token="secret") as address:
        files = [("a.png", png(1))]
        assert send(address, files).status == 401
        assert send(address, files, Authorization="Bearer wrong").status == 401
        assert send(address, files, Authorization="Bearer secret").status == 200
        assert ask(f"{address}/metrics").status == 401
        assert ask(f"{address}/openapi.json").status == 401
        assert ask(f"{address}/healthz").json["token"] is True
        assert ask(address).status == 200


def test_more_requests_than_may_wait_get_429(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go = threading.Semaphore(0), threading.Event()
    score = Predictor.score

    def slow(self: Predictor, *images: Any, **options: Any) -> Any:
        inside.release()
        assert go.wait(60)
        return score(self, *images, **options)

    monkeypatch.setattr(Predictor, "score", slow)
    with serving(predictor) as address:
        replies: list[Reply] = []

        def one(seed: int) -> threading.Thread:
            sent: Callable[[], None] = lambda: replies.append(  # noqa: E731
                send(address, [(f"{seed}.png", png(seed))])
            )
            thread = threading.Thread(target=sent)
            thread.start()
            return thread

        threads = [one(1)]
        assert inside.acquire(timeout=60)
        threads.append(one(2))
        while "leak_requests_in_progress 2" not in ask(f"{address}/metrics").body.decode():
            pass
        refused = send(address, [("3.png", png(3))])
        assert refused.status == 429
        assert refused.headers["retry-after"] == "5"
        go.set()
        for thread in threads:
            thread.join()
        assert [reply.status for reply in replies] == [200, 200]
        assert send(address, [("3.png", png(3))]).status == 200


def test_a_client_that_leaves_a_stream_frees_its_place(predictor: Predictor) -> None:
    with serving(predictor) as address:
        packed = zipped([(f"{row}.png", png(row)) for row in range(LIMITS.images)])
        kind, body = multipart([("x.zip", packed)])
        client = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        client.request("POST", "/v1/score?stream=true", body, {"Content-Type": kind})
        answer = client.getresponse()
        assert json.loads(answer.readline())["total"] == LIMITS.images
        answer.close()
        client.close()
        while "leak_requests_in_progress 0" not in ask(f"{address}/metrics").body.decode():
            pass
        assert send(address, [("a.png", png(1))]).status == 200


def test_requests_and_images_are_counted(predictor: Predictor) -> None:
    with serving(predictor) as address:
        answer = send(address, [("a.png", png(1)), ("junk.png", b"")]).json["images"][0]
        ask(f"{address}/nowhere")
        lines = ask(f"{address}/metrics").body.decode().splitlines()
    assert f'leak_images_total{{verdict="{answer["verdict"]}"}} 1' in lines
    assert 'leak_images_total{verdict="not_scored"} 1' in lines
    assert 'leak_requests_total{status="200"} 1' in lines
    assert 'leak_requests_total{status="404"} 1' in lines


def test_an_explanation_is_that_of_the_command(
    predictor: Predictor, address: str, tmp_path: Path
) -> None:
    files = [("a.png", png(1)), ("b.png", png(2))]
    (tmp_path / "a.png").write_bytes(files[0][1])
    expected = explain_image(predictor, tmp_path / "a.png", 0.3)
    page = send(address, files[:1], "?alpha=0.3", to="explain")
    assert page.headers["content-type"].startswith("text/html")
    assert page.body.decode() == render(
        [replace(expected, path="a.png")], str(predictor.run), [keyed_figures(expected)]
    )
    packed = [("x.zip", zipped(files))]
    numbers = send(address, packed, "?alpha=0.3&format=json&name=x.zip/a.png", to="explain").json
    (found,) = numbers["images"]
    assert found["path"] == "x.zip/a.png"
    assert found["margin"] == pytest.approx(expected.margin)
    nearest = found["position"]["nearest"]
    assert [one["path"] for one in nearest] == [one.path for one in expected.position.nearest]
    assert [one["distance"] for one in nearest] == sorted(one["distance"] for one in nearest)
    several = send(address, packed, to="explain")
    assert (several.status, several.json["detail"][:20]) == (400, "2 images to explain:")
    assert "not an image" in send(address, [("a.png", b"junk")], to="explain").json["detail"]


def test_images_after_the_time_limit_have_a_reason(predictor: Predictor) -> None:
    uploads = [Upload(f"{row}.png", png(1)) for row in range(AT_ONCE + 2)]
    jobs = Jobs(predictor, Limits(seconds=1e-9))
    parts = list(jobs.parts([Upload("x", reason="no"), *uploads], 0.05, stability=False))
    assert [len(part) for part in parts] == [AT_ONCE, 3]
    found = [one for part in parts for one in part]
    late = "not scored: the time limit of 1e-09 s was reached"
    assert [one.reason for one in found] == ["no", *[""] * (AT_ONCE - 1), late, late, late]
    assert [one.path for one in found] == ["x", *(upload.name for upload in uploads)]


def test_the_page_and_the_description_need_nothing_from_elsewhere(address: str) -> None:
    page = ask(address)
    text = page.body.decode()
    policy = page.headers["content-security-policy"]
    nonces = set(re.findall(r'nonce="([^"\']+)"', text))
    assert len(nonces) == 1
    assert f"'nonce-{nonces.pop()}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"https?://|innerHTML|document\.write", text)
    described = ask(f"{address}/openapi.json").json
    assert set(described["paths"]) == {"/healthz", "/metrics", "/v1/score", "/v1/explain"}
    assert (
        "multipart/form-data" in described["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    )
    assert ask(f"{address}/docs").status == 404
