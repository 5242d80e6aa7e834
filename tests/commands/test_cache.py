"""`leak cache`: what it prints, what it exits with, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from tiny_data import tiny_image, write_images

from leakcache.store.cache import Cache

Call = Callable[..., Any]


@pytest.fixture
def build(call: Call, tmp_path: Path, vae: Path) -> Call:
    """`build("--json")` builds the cache of `tmp_path/data` with 64-pixel views."""
    write_images(tmp_path / "data" / "Closed_Set")
    write_images(tmp_path / "data" / "Open_Set", ("eve",), count=3, first=50)

    def run(*words: object) -> Any:
        return call("cache", "build", "--vae", vae, "--size", 64, *words)

    return run


def one_line(said: Any, *words: str) -> None:
    """An error of one line on stderr, nothing on stdout, exit 1."""
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert (said.code, said.out, len(lines)) == (1, "", 1), said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in lines[0]


def test_build_says_what_it_did_and_the_next_one_does_nothing(build: Call, tmp_path: Path) -> None:
    said = build("--json")
    assert said.code == 0
    found = said.json
    folder = Path(found["cache"])
    assert folder == Path("caches") / "data-tiny-resize64"
    closed = found["closed"]
    assert (closed["images"], closed["computed"], closed["stored"]) == (12, 12, 0)
    assert closed["columns"] == {
        "z0": 12,
        "pixel_statistics": 12,
        "activation_statistics": 12,
        "degraded_pixel_statistics": 6,
        "degraded_activation_statistics": 6,
    }
    assert closed["relative_latent_error"] is None
    assert closed["rejects"] == []
    assert closed["fingerprint"] == Cache.open(tmp_path / closed["path"]).manifest.fingerprint
    assert "computing 12/12 images" in said.err
    assert "data: 15 images, z0, pixel_statistics" in said.err
    again = build()
    assert again.code == 0
    assert (
        "12 images in caches/data-tiny-resize64/closed (0 computed, 12 stored before" in again.out
    )


def test_closed_open_or_both(build: Call, call: Call, tmp_path: Path) -> None:
    assert set(build("--split", "open", "--json").json) == {"cache", "open"}
    assert set(build("--split", "all", "--json").json) == {"cache", "closed", "open"}
    info = call("cache", "info", "--json").json
    assert info["closed"]["classes"] == ["ada", "bob"]
    assert info["open"]["unknown"] == ["eve"]
    only = write_images(tmp_path / "only-closed")
    assert set(build("--data", only, "--split", "all", "--json").json) == {"cache", "closed"}
    one_line(build("--data", only, "--split", "open"), "no images in the open split")


def test_reduced_precision_prints_its_latent_error(build: Call) -> None:
    said = build("--precision", "bf16")
    assert "closed: bf16 latents differ from fp32 by 0." in said.out
    assert "caches/data-tiny-resize64-bf16" in said.out


def test_added_images_are_said_and_encoded(build: Call, tmp_path: Path) -> None:
    build()
    tiny_image(5000).save(tmp_path / "data" / "Closed_Set" / "ada" / "more.png")
    said = build()
    assert "since the last build, 1 added (Closed_Set/ada/more.png)" in said.out
    assert "(1 computed, 12 stored before" in said.out


def test_rejects_are_listed_and_too_many_are_exit_1(
    build: Call, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "data" / "Closed_Set" / "ada" / "bad.png").write_bytes(b"")
    said = build()
    assert said.code == 1
    assert "Closed_Set/ada/bad.png: the file is empty (0 bytes)" in said.out
    assert "error: 1 of 13 files were left out, more than --max-rejects 1 %" in said.err
    assert build("--max-rejects", 8).code == 0
    listed = build("--max-rejects", 8, "--json").json["closed"]["rejects"]
    assert listed == [{"path": "Closed_Set/ada/bad.png", "reason": "the file is empty (0 bytes)"}]
    assert call("cache", "info", "--json").json["closed"]["rejects"] == listed
    json_said = build("--json")
    assert json_said.code == 1
    assert json_said.json["closed"]["images"] == 12


def test_other_weights_are_refused_until_fresh(build: Call, call: Call, shared_cache: Path) -> None:
    build("--cache", shared_cache)
    said = build("--cache", shared_cache, "--store", "float32")
    one_line(said, "stored type float16 against float32", "--fresh")
    assert build("--cache", shared_cache, "--store", "float32", "--fresh").code == 0
    assert call("cache", "info", "--cache", shared_cache, "--json").json["closed"]["precision"] == (
        "fp32, stored as float32"
    )


@pytest.fixture
def shared_cache(tmp_path: Path) -> Path:
    return tmp_path / "one"


def test_info_describes_the_cache_built_last(build: Call, call: Call) -> None:
    one_line(call("cache", "info"), "no cache yet", "leak cache build")
    build()
    said = call("cache", "info")
    assert said.code == 0
    for words in ("images         12", "autoencoder    tiny (AutoencoderTiny)", "resize 64"):
        assert words in said.out


def test_columns_are_chosen_by_settings_or_by_name(build: Call, call: Call, tmp_path: Path) -> None:
    found = build("--for", "paper", "--split", "all", "--json").json
    assert (found["closed"]["columns"], found["open"]["columns"]) == ({"z0": 12}, {"z0": 3})
    pixels = "pixels_resize256,pixels_crop256x2"
    found = build("--columns", pixels, "--split", "all", "--json").json
    assert found["closed"]["columns"] == {"pixels_resize256": 12, "pixels_crop256x2": 12}
    columns = call("cache", "info", "--json").json["columns"]
    assert {k.rsplit("-", 1)[0]: one["images"] for k, one in columns.items()} == {
        "z0": 15,
        "pixels_resize256": 15,
        "pixels_crop256x2": 15,
    }
    (tmp_path / "mine.toml").write_text(
        'preset = "paper"\n[statistics]\nenabled = true\nactivations = false\ndegraded = false\n'
    )
    assert set(build("--for", "mine.toml", "--json").json["closed"]["columns"]) == {
        "z0",
        "pixel_statistics",
    }
    one_line(build("--columns", "z1"), "no column is called 'z1'", "pixel_statistics")
    one_line(build("--for", "bets"), "bets")


def test_train_names_the_command_that_fills_what_it_lacks(build: Call, call: Call) -> None:
    build("--for", "paper")
    said = call("train", "--epochs", 1)
    one_line(said, "lacks pixel_statistics", "--columns pixel_statistics,", "or add --fill")
    error = next(line for line in said.err.splitlines() if line.startswith("error:"))
    assert call(*error.split("`")[1].split()[1:]).code == 0
    assert "lacks" not in call("train", "--epochs", 1).err


def test_score_fills_another_cache_when_asked(build: Call, call: Call) -> None:
    build("--for", "paper")
    run = call("train", "--preset", "paper", "--epochs", 1, "--json").json["run"]
    build("--columns", "pixels_resize256", "--cache", "caches/other")
    words = ("score", "--run", run, "--cache", "caches/other", "--kde")
    one_line(call(*words), "lacks z0", "--columns z0", "or add --fill")
    assert call(*words, "--fill").code == 0
    assert call(*words).code == 0


def test_verify_and_repair(build: Call, call: Call, tmp_path: Path) -> None:
    build()
    sound = call("cache", "verify", "--spot", 4, "--json")
    assert sound.code == 0
    assert (sound.json["ok"], sound.json["recomputed"]) == (True, 4)
    (file, *_) = [
        path
        for path in (tmp_path / "caches").rglob("store/columns/z0-*/values.zarr/c/**/0")
        if path.is_file()
    ]
    before = file.read_bytes()
    file.write_bytes(before[:-1])
    damaged = call("cache", "verify")
    assert damaged.code == 1
    assert "1 damaged" in damaged.out
    assert "--repair" in damaged.out
    assert call("cache", "verify", "--json").json["ok"] is False
    assert "z0                             6 images computed" in build("--repair").out
    assert call("cache", "verify").code == 0
    assert file.read_bytes() == before


def test_export_writes_one_file(build: Call, call: Call, tmp_path: Path) -> None:
    build()
    said = call("cache", "export", "--to", "h5", "--out", "new/latents.h5", "--json")
    assert said.code == 0
    assert said.json["images"] == 12
    assert said.json["bytes"] == (tmp_path / "new" / "latents.h5").stat().st_size
    with h5py.File(tmp_path / "new" / "latents.h5") as file:
        assert file["z0"].shape == (12, 1, 4, 8, 8)
    one_line(call("cache", "export", "--split", "open"), "no finished cache")
    assert call("cache", "export").out.startswith("caches/data-tiny-resize64/closed.h5: 12 images")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere"], "does not exist"),
        (["--vae", "nowhere.safetensors"], "no such folder"),
        (["--vae", "sdxl"], "hf download stabilityai/stable-diffusion-xl-base-1.0"),
        (["--size", "100"], "size 100 is not a multiple of 8"),
        (["--views", "2"], "resize gives one view"),
        (["--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_refusals_are_one_line(words: list[str], said: str, build: Call) -> None:
    one_line(build(*words), said)


@pytest.mark.parametrize(
    "words", [["--split", "both"], ["--size", "big"], ["--nonsense"], ["surplus"]]
)
def test_wrong_usage_is_exit_2(words: list[str], build: Call) -> None:
    said = build(*words)
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err


def test_a_folder_that_cannot_be_written_is_one_line(
    build: Call, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    one_line(build("--cache", tmp_path / "file"), "file", "error: ")
    build()
    one_line(call("cache", "export", "--out", "file/x.h5"), "file", "error: ")


def test_leak_toml_sets_defaults_and_flags_go_before(call: Call, tmp_path: Path, vae: Path) -> None:
    write_images(tmp_path / "photos")
    (tmp_path / "leak.toml").write_text(
        f'data = "photos"\nvae = "{vae}"\ncaches = "kept"\n'
        '[cache.build]\nsize = 64\nstore = "float32"\nmax-rejects = 50\n'
    )
    found = call("cache", "build", "--json").json
    assert found["cache"] == "kept/photos-tiny-resize64"
    assert call("cache", "info", "--json").json["closed"]["precision"].endswith("float32")
    other = call("cache", "build", "--size", 72, "--json").json
    assert other["cache"] == "kept/photos-tiny-resize72"
    moved = call("--caches", "elsewhere", "cache", "build", "--json").json
    assert moved["cache"] == "elsewhere/photos-tiny-resize64"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dta = 'x'", "dta is not known at the top level"),
        ("[cache.build]\nsiez = 64", "[cache.build] has no option siez"),
        ("[cache.biuld]\nsize = 64", "cache.biuld is not known"),
        ("[cache]\nsize = 64", "cache.size is not known"),
        ("[trian]\nseed = 1", "trian is not known"),
        ("data = ", "not readable as TOML"),
    ],
)
def test_unknown_keys_of_leak_toml_are_refused_in_one_line(
    text: str, words: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "leak.toml").write_text(text)
    one_line(call("cache", "build"), "leak.toml", words)


def test_one_cache_for_all_commands_can_stand_in_leak_toml(
    build: Call, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "leak.toml").write_text('cache = "mine"\n')
    assert build("--json").json["cache"] == "mine"
    assert call("cache", "info", "--json").json["cache"] == "mine"


def test_values_of_the_wrong_type_in_leak_toml_are_wrong_usage(call: Call, tmp_path: Path) -> None:
    (tmp_path / "leak.toml").write_text("[cache.build]\nsize = 'big'\n")
    said = call("cache", "build")
    assert said.code == 2
    assert "size" in said.err


def test_json_is_one_object_even_where_paths_are_odd(build: Call, tmp_path: Path) -> None:
    (tmp_path / "data" / "Closed_Set" / "ada" / 'ü "quoted" €.png').write_bytes(b"")
    said = build("--json")
    assert json.loads(said.out)["closed"]["rejects"][0]["path"].endswith('ü "quoted" €.png')


def test_workers_build_one_cache(
    build: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build("--worker", "1/2", "--split", "all", "--columns", "z0", "--json").json
    assert (first["closed"]["computed"], first["open"]["computed"]) == (12, 3)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    late = build("--worker", "auto", "--split", "all", "--columns", "z0", "--json").json
    assert (late["closed"]["computed"], late["closed"]["stored"]) == (0, 12)
    assert late["closed"]["fingerprint"] == first["closed"]["fingerprint"]


@pytest.mark.parametrize("words", ["2/2", "one", "1", "-1/2", "auto"])
def test_a_worker_that_is_none_is_refused(build: Call, words: str) -> None:
    one_line(build("--worker", words), "--worker", "K/N")


def test_workers_leave_repairs_to_one_process(build: Call) -> None:
    one_line(build("--worker", "0/2", "--fresh"), "--fresh and --repair need the cache alone")
