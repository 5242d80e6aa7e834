"""The served page: images dropped on it get the answers that the server gives."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leaknet.scoring.predict import Predictor
from tests.browser.conftest import Visit
from tests.tiny_data import tiny_image

pytest.importorskip("fastapi", reason="the extra ui is not installed")
pytest.importorskip("uvicorn", reason="the extra ui is not installed")
pytest.importorskip("multipart", reason="the extra ui is not installed")

from tests.leaknet.serve.test_serve import png, serving, zipped

Open = Callable[[str], Visit]
DROP = """(files) => {
  const data = new DataTransfer();
  for (const [name, content] of files)
    data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
  document.getElementById("drop").dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def address(predictor: Predictor) -> Iterator[str]:
    with serving(predictor) as address:
        yield address


def drop(found: Visit, files: list[tuple[str, bytes]]) -> None:
    """Drop files on the page, and wait until it is done with them."""
    found.page.evaluate(DROP, [(name, b64encode(data).decode()) for name, data in files])
    found.page.locator("#progress").wait_for(state="hidden")


def cells(found: Visit) -> list[dict[str, str]]:
    """The rows of the table of answers, by the headings."""
    rows: Any = found.page.evaluate(
        "[...document.querySelectorAll('tbody tr')].map((row) => "
        "Object.fromEntries([...row.cells].map((cell) => [cell.dataset.name, cell.innerText])))"
    )
    return rows  # type: ignore[no-any-return]


def saved(found: Visit, button: str) -> str:
    """The content of the file that a button saves."""
    with found.page.expect_download() as download:
        found.page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_dropped_files_are_answered(
    address: str, predictor: Predictor, visit: Open, screenshots: Path | None
) -> None:
    found = visit(address)
    found.page.get_by_text("Known generators: ada, bob.").wait_for()
    found.check("served-empty", screenshots)
    long = f"{'a long name of an image ' * 4}.png"
    drop(found, [(long, png(1)), ("junk.png", b"junk"), ("x.zip", zipped([("in.png", png(2))]))])
    shown = cells(found)
    expected = list(predictor.score([tiny_image(1), tiny_image(2)]))
    assert [row["File"] for row in shown] == [long, "junk.png", "x.zip/in.png"]
    for row, one in zip((shown[0], shown[2]), expected, strict=True):
        assert one.answer is not None
        assert row["Answer"].startswith(one.answer)
        assert row["Likeliest"].startswith(str(one.generator))
    assert "not an image" in shown[1]["Answer"]
    found.check("served", screenshots)
    table = saved(found, "CSV")
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == [row["File"] for row in shown]
    content = json.loads(saved(found, "JSON"))
    assert [one["path"] for one in content["images"]] == [row["File"] for row in shown]


def test_what_the_server_refuses_is_said(address: str, visit: Open) -> None:
    found = visit(address)
    drop(found, [("huge.png", bytes(2**20))])
    assert "more than 1,048,576 bytes" in found.page.inner_text("#message")
    drop(found, [("good.png", png(3))])
    assert found.page.inner_text("#message") == ""
    assert len(cells(found)) == 1
    # The browser itself reports the refusal.
    assert all("413" in problem for problem in found.problems)


def test_a_token_is_asked_for(predictor: Predictor, visit: Open) -> None:
    with serving(predictor, token="secret") as address:
        found = visit(address)
        found.page.get_by_label("Token").fill("secret")
        drop(found, [("a.png", png(4))])
        assert len(cells(found)) == 1
        assert not found.problems
