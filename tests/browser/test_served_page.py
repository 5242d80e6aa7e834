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
    address: str, predictor: Predictor, tmp_path: Path, visit: Open, screenshots: Path | None
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
    page = tmp_path / "scores.html"
    page.write_text(saved(found, "HTML"), encoding="utf-8")
    alone = visit(page.as_uri())
    assert [row["Answer"] for row in cells(alone)] == [row["Answer"] for row in shown]
    alone.check("served-saved", screenshots)


def test_answers_are_explained(address: str, visit: Open, screenshots: Path | None) -> None:
    found = visit(address)
    files = [("in.png", png(2)), ("other.png", png(3))]
    drop(found, [("a.png", png(1)), ("x.zip", zipped(files))])
    for name, folder in (("a.png", ""), ("in.png", "x.zip/")):
        found.page.get_by_role("button", name=f"Explain {folder}{name}").click()
        frame = found.page.frame_locator("iframe")
        frame.get_by_role("heading", name=name).wait_for()
        assert frame.locator("body").evaluate("body => getComputedStyle(body).margin") == "0px"
        assert frame.locator("th button").count() > 0  # its script ran
        assert not found.problems
        if name == "a.png":
            found.check("served-explained", screenshots)
        found.page.get_by_role("button", name="Close").click()


@pytest.mark.parametrize("way", ["chosen", "dropped"])
def test_a_folder_is_searched(way: str, address: str, tmp_path: Path, visit: Open) -> None:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    for number in range(10):
        (tmp_path / "photos" / "deep" / f"{number}.png").write_bytes(png(number))
    found = visit(address)
    if way == "chosen":
        found.page.get_by_label("Folder").set_input_files(tmp_path / "photos")
    else:
        mouse = found.page.context.new_cdp_session(found.page)
        files = {"items": [], "files": [str(tmp_path / "photos")], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            where = {"type": kind, "x": 300, "y": 160, "data": files}
            mouse.send("Input.dispatchDragEvent", where)
    found.page.locator("tbody tr").nth(9).wait_for()
    names = {row["File"] for row in cells(found)}
    assert names == {f"photos/deep/{number}.png" for number in range(10)}
    assert not found.problems


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
