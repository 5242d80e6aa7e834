"""The layouts of public data sets: splits, real and generated, prompts, metadata, tables."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from leakcache.dataset.findings import inspect, refuse_errors
from leakcache.dataset.image_files import find_images
from leakcache.dataset.index import DatasetIndex, read_index
from leakcache.errors import DataError

FOLDS = {"train": 4, "val": 2, "test": 2}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def fill(root: Path, folder: str, count: int, start: int = 0) -> None:
    touch(root, *(f"{folder}/{start + number:04}.png" for number in range(count)))


def said(index: DatasetIndex, level: str) -> str:
    return "; ".join(f.sentence for f in inspect(index) if f.level == level)


def folds(index: DatasetIndex, label: str) -> dict[str, int]:
    return {fold: count for fold, count in index.counts()[label].items() if count}


# Splits.


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("train2017", "val2017", "test2017"),
        ("train_set", "dev", "test_set"),
        ("TRAIN", "valid", "Test images"),
        ("01_train", "02_val", "03_test"),
    ],
)
@pytest.mark.parametrize("above", [True, False])
def test_split_folders_give_the_folds_above_and_below_the_classes(tmp_path, names, above):
    start = 0
    for name, count in zip(names, FOLDS.values(), strict=True):
        for label in ("alpha", "beta", "gamma"):
            fill(tmp_path, f"{name}/{label}" if above else f"{label}/{name}", count, start)
        start += count
    index = read_index(tmp_path)
    assert index.classes == ("alpha", "beta", "gamma")
    assert all(folds(index, label) == FOLDS for label in index.classes)
    assert ("Read as split/class" if above else "Read as class/split") in index.layout
    assert "--layout" in index.layout
    assert index.rejects == ()


def test_a_prompt_in_several_given_folds_is_warned_of_by_name(tmp_path):
    for fold, label in (("train", "a"), ("val", "a"), ("test", "b"), ("train", "b")):
        touch(tmp_path, f"{fold}/{label}/cat.png", f"{fold}/{label}/{fold}-{label}.png")
    warned = said(read_index(tmp_path), "warning")
    assert "1 prompt group has images in several folds: cat" in warned


def test_without_a_validation_folder_a_part_of_train_validates(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path, f"train/{label}", 10)
        fill(tmp_path, f"test/{label}", 5, 10)
    index = read_index(tmp_path)
    assert folds(index, "a") == {"train": 8, "val": 2, "test": 5}
    assert "no validation fold is given" in said(index, "note")
    assert index.crossing_groups == ()


def test_a_train_folder_alone_splits_nothing(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path, f"train/{label}", 10)
    index = read_index(tmp_path)
    assert folds(index, "a") == {"train": 5, "val": 2, "test": 3}
    assert index.classes == ("a", "b")


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (
            ("train", "test", "alpha"),
            "test, train are named like splits and alpha beside them are not",
        ),
        (("train", "beta", "alpha"), "train are named like splits and alpha, beta"),
        (("train", "val", "test"), "hold images but no class folders"),
        (("a/train", "a/test", "b"), "a/test has split folders and b has none|a has split"),
        (("x/train/cat", "x/test/dog", "y/train/cat", "y/test/dog"), "either may be the classes"),
        (("train/lsun/real", "train/lsun/adm", "test/lsun/adm"), "adm, real lie below lsun"),
        (("car/0_real", "car/1_fake", "cat/0_real", "cat/1_fake"), "car, cat above real"),
        (("train/car/0_real", "train/cat/1_fake", "test/ADM/1_fake"), "car, cat above real"),
        (("real/cat", "real/dog", "fake/cat", "fake/dog"), "cat, dog lie below both real and"),
        (("flux/ai", "flux/other", "sdxl/ai", "sdxl/other"), "ai, other lie below flux"),
    ],
)
def test_what_can_be_read_in_two_ways_is_a_question(tmp_path, folders, named):
    for folder in folders:
        fill(tmp_path, folder, 3)
    with pytest.raises(DataError, match=named) as caught:
        read_index(tmp_path)
    assert "--layout" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layout_that_is_given_answers_the_question(tmp_path):
    for folder in ("x/train/cat", "x/test/dog", "y/train/cat", "y/test/dog"):
        fill(tmp_path, folder, 3)
    assert read_index(tmp_path, layout="class/split").classes == ("x", "y")
    assert read_index(tmp_path, layout="*/split/class").classes == ("cat", "dog")
    assert read_index(tmp_path, layout="generator").classes == ("x", "y")


@pytest.mark.parametrize("given", ["split", "class/class", "klass", "split/prompt"])
def test_a_layout_that_names_no_class_is_refused(tmp_path, given):
    fill(tmp_path, "a", 2)
    with pytest.raises(DataError, match="join levels of split, class"):
        read_index(tmp_path, layout=given)


def test_a_layout_that_does_not_fit_is_refused(tmp_path):
    fill(tmp_path, "a/b", 2)
    with pytest.raises(DataError, match="takes a for a split"):
        read_index(tmp_path, layout="split/class")


def test_one_folder_around_everything_is_looked_through(tmp_path):
    for fold in FOLDS:
        for label in ("a", "b"):
            fill(tmp_path, f"data/{fold}/{label}", 3)
            fill(tmp_path, f"mine/{fold}/{label}", 3)
    assert read_index(tmp_path / "data" / "..", layout="*/split/class").classes == ("a", "b")
    assert read_index(tmp_path / "data").classes == ("a", "b")


def test_a_wrapper_above_the_splits_is_looked_through(tmp_path):
    for fold in FOLDS:
        for label in ("a", "b"):
            fill(tmp_path, f"my-set-v2/{fold}/{label}", 3)
    assert read_index(tmp_path).classes == ("a", "b")


def test_a_class_without_training_images_is_an_error_and_without_others_a_warning(tmp_path):
    for folder in ("train/a", "train/b", "val/a", "val/b", "test/a", "test/late"):
        fill(tmp_path, folder, 3)
    index = read_index(tmp_path)
    assert "no image of class late is in the fold train" in said(index, "error")
    assert "no image of class b is in the fold test" in said(index, "warning")


# Real and generated, side by side.


@pytest.mark.parametrize(
    "pair",
    [("nature", "ai"), ("0_real", "1_fake"), ("real", "fake"), ("Human", "AI-generated images")],
)
@pytest.mark.parametrize("shape", ["{g}/{f}/{k}", "{f}/{g}/{k}", "{g}/imagenet_{g}/{f}/{k}"])
def test_real_and_generated_below_a_generator_are_apart(tmp_path, pair, shape):
    for generator in ("ADM", "BigGAN"):
        for fold, count in FOLDS.items():
            for kind in pair:
                fill(tmp_path, shape.format(g=generator, f=fold, k=kind), count)
    index = read_index(tmp_path)
    assert index.classes == ("ADM", "BigGAN", "real")
    assert folds(index, "ADM") == FOLDS
    assert folds(index, "real") == {fold: 2 * count for fold, count in FOLDS.items()}
    real = {r.path for r in index.records if r.label == "real"}
    assert all(f"/{pair[0]}/" in path for path in real)
    assert "kind" in index.layout


@pytest.mark.parametrize("shape", ["{k}", "{f}/{k}"])
def test_real_and_generated_without_a_generator_are_two_classes(tmp_path, shape):
    for fold, count in FOLDS.items():
        for kind in ("0_real", "1_fake"):
            fill(tmp_path, shape.format(f=fold, k=kind), count)
    assert read_index(tmp_path).classes == ("fake", "real")


def test_generators_with_and_without_subject_folders_read_alike(tmp_path):
    for kind in ("0_real", "1_fake"):
        for subject in ("car", "cat", "horse"):
            fill(tmp_path, f"progan/{subject}/{kind}", 3)
        fill(tmp_path, f"biggan/{kind}", 3)
    index = read_index(tmp_path)
    counts = Counter(record.label for record in index.records)
    assert counts == {"progan": 9, "biggan": 3, "real": 12}


def test_generators_below_real_and_fake_keep_their_names(tmp_path):
    for folder in ("real/coco", "real/laion", "fake/sd15", "fake/sdxl"):
        fill(tmp_path, folder, 4)
    assert read_index(tmp_path).classes == ("real", "sd15", "sdxl")


def test_a_generator_without_real_images_keeps_its_name(tmp_path):
    for folder in ("dalle/1_fake", "glide/1_fake", "laion/0_real"):
        fill(tmp_path, folder, 4)
    assert read_index(tmp_path).classes == ("dalle", "glide", "real")


def test_real_as_one_class_among_generators_stays_a_class(tmp_path):
    for folder in ("real", "sd15", "sdxl"):
        fill(tmp_path, folder, 4)
    assert read_index(tmp_path).classes == ("real", "sd15", "sdxl")


def test_an_image_beside_real_and_generated_folders_has_no_class(tmp_path):
    for folder in ("x/ai", "x/nature", "y/ai", "y/nature"):
        fill(tmp_path, folder, 3)
    touch(tmp_path, "x/odd.png")
    index = read_index(tmp_path)
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("x/odd.png", "lies beside real and generated folders, so it has no class")
    ]


# Prompts.


@pytest.mark.parametrize(
    "shape",
    [
        "{c}/{p:05}/samples/{s:04}.png",
        "{c}/{p:05}/{s}.png",
        "{c}/samples/prompt_{p}/{s}.png",
        "{c}/a_{p}_cat_on_a_mat/seed_{s}/image.png",
        "train_only/{c}/{p:05}/{s:04}.png",
    ],
)
def test_a_folder_a_prompt_is_the_group(tmp_path, shape):
    for label in ("alpha", "beta"):
        for prompt in range(6):
            for sample in range(3):
                touch(tmp_path, shape.format(c=label, p=prompt, s=sample))
                if shape.startswith("{c}/{p:05}/samples"):
                    (tmp_path / label / f"{prompt:05}" / "metadata.jsonl").write_text("{}")
    options = {"layout": "*/class/prompt"} if shape.startswith("train_only") else {}
    index = read_index(tmp_path, **options)
    assert len({r.group for r in index.records}) == 6
    assert index.crossing_groups == ()
    assert folds(index, "alpha") == {"train": 9, "val": 3, "test": 6}
    assert "one folder below the class" in index.layout


@pytest.mark.parametrize("form", ["csv", "metadata"])
def test_folders_of_a_table_without_groups_are_prompts_too(tmp_path, form):
    rows = []
    for label in ("alpha", "beta"):
        for name in (f"{p:05}/samples/{s:04}.png" for p in range(6) for s in range(3)):
            path = f"{label}/{name}"
            touch(tmp_path, path)
            rows.append(f"{path},{label}-v1\n" if form == "metadata" else f"{path},{label}\n")
    name, column = ("metadata.csv", "file_name") if form == "metadata" else ("index.csv", "path")
    (tmp_path / name).write_text(f"{column},label\n" + "".join(rows))
    index = read_index(tmp_path if form == "metadata" else tmp_path / name)
    assert {r.group for r in index.records} == {f"{p:05}" for p in range(6)}
    assert index.crossing_groups == ()


@pytest.mark.parametrize(
    "name", ["{p:05}_{s:02}", "a cat {p}-seed{s}", "prompt{p} ({s})", "{p:03}.{s}", "img-{p}_s{s}"]
)
def test_samples_numbered_in_the_name_are_one_prompt(tmp_path, name):
    for label in ("alpha", "beta"):
        touch(tmp_path, *(f"{label}/{name.format(p=p, s=s)}.png" for p in range(6) for s in (0, 1)))
    touch(tmp_path, f"gamma/{name.format(p=0, s=0)}.png")
    index = read_index(tmp_path)
    assert len({r.group for r in index.records}) == 6
    assert "differ in the last number alone" in index.layout
    assert "--group stem" in index.layout
    assert len({r.group for r in read_index(tmp_path, group="stem").records}) == 12


@pytest.mark.parametrize("name", ["image_{n:03}", "n0{n}144_{n}7", "cat_{n}", "{n:04}", "p{n}"])
def test_numbers_of_prompts_are_no_samples(tmp_path, name):
    for label in ("alpha", "beta"):
        touch(tmp_path, *(f"{label}/{name.format(n=n)}.png" for n in range(12)))
    index = read_index(tmp_path)
    assert len({r.group for r in index.records}) == 12
    assert len({r.group for r in read_index(tmp_path, group="prefix").records}) <= 12


@pytest.mark.parametrize(
    ("shape", "answer"), [("{p:05}/{c}", "path,label,group"), ("{p:05}/{c}/0", "prompt/class")]
)
def test_prompts_above_the_classes_are_a_question(tmp_path, shape, answer):
    for prompt in range(6):
        touch(tmp_path, *(f"{shape.format(p=prompt, c=c)}.png" for c in ("flux", "sd3", "sdxl")))
    with pytest.raises(DataError, match=f"above flux, sd3, sdxl look like prompts.*{answer}"):
        read_index(tmp_path)
    assert len(read_index(tmp_path, layout="class").classes) == 6
    if "/0" in shape:
        index = read_index(tmp_path, layout="prompt/class")
        assert index.classes == ("flux", "sd3", "sdxl")
        assert len({r.group for r in index.records}) == 6


def test_a_folder_a_style_is_no_prompt(tmp_path):
    for label in ("alpha", "beta"):
        for seed in range(4):
            fill(tmp_path, f"{label}/seed_{seed}", 10)
    index = read_index(tmp_path)
    assert len({r.group for r in index.records}) == 10
    assert "--group folder" in index.layout


def test_folders_that_may_be_prompts_or_styles_are_a_question(tmp_path):
    for label in ("alpha", "beta"):
        for folder in ("cat", "dog", "house"):
            fill(tmp_path, f"{label}/{folder}", 12)
    with pytest.raises(DataError, match="folders cat, dog, house below the classes"):
        read_index(tmp_path)
    assert len({r.group for r in read_index(tmp_path, group="folder").records}) == 3
    assert len({r.group for r in read_index(tmp_path, group="stem").records}) == 12
    assert len({r.group for r in read_index(tmp_path, group="file").records}) == 72


# Metadata files.


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "each"])
def test_metadata_beside_the_images_labels_them(tmp_path, form):
    names = [f"train/{number}.png" for number in range(9)]
    touch(tmp_path, *names)
    rows = [{"file_name": n, "label": "abc"[i % 3], "text": f"t{i}"} for i, n in enumerate(names)]
    if form == "csv":
        lines = [f"{r['file_name']},{r['label']},{r['text']}" for r in rows]
        (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,text", *lines, ",,"]))
    elif form == "parquet":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows).to_parquet(tmp_path / "metadata.parquet")
    else:
        where = tmp_path / "train" if form == "each" else tmp_path
        for row in rows:
            row["file_name"] = row["file_name"].removeprefix("train/" if form == "each" else "")
        (where / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    index = read_index(tmp_path)
    assert index.classes == ("a", "b", "c")
    assert {r.group for r in index.records} == {f"t{number}" for number in range(9)}
    assert {r.fold for r in index.records} == {"train", "val", "test"}
    assert "label from column label" in index.layout


def test_metadata_in_split_folders_keeps_the_folds(tmp_path):
    for fold, count in FOLDS.items():
        fill(tmp_path, fold, 2 * count)
        rows = [{"file_name": f"{n:04}.png", "label": "ab"[n % 2]} for n in range(2 * count)]
        (tmp_path / fold / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert folds(read_index(tmp_path), "b") == FOLDS


def test_metadata_without_labels_gives_prompts_to_class_folders(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path, label, 6)
        rows = [{"file_name": f"{n:04}.png", "prompt": f"p{n // 2}"} for n in range(6)]
        (tmp_path / label / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    index = read_index(tmp_path)
    assert index.classes == ("a", "b")
    assert {r.group for r in index.records} == {"p0", "p1", "p2"}


def test_metadata_names_what_is_not_there_and_what_it_leaves_out(tmp_path):
    fill(tmp_path, "x", 4)
    rows = ["file_name,label", "x/0000.png,a", "x/0001.png,b", "x/gone.png,b"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    assert {(r.path, r.reason) for r in read_index(tmp_path).rejects} == {
        ("x/gone.png", "named in metadata.csv, not on disk"),
        ("x/0002.png", "no metadata file names it"),
        ("x/0003.png", "no metadata file names it"),
    }


def test_labels_of_two_kinds_are_a_question(tmp_path):
    fill(tmp_path, "x", 4)
    rows = [f"x/{n:04}.png,{n % 2},{'sd,glide,dalle,real'.split(',')[n]}" for n in range(4)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,model_name", *rows]))
    with pytest.raises(DataError, match="give --label model_name or --label label"):
        read_index(tmp_path)
    index = read_index(tmp_path, label="model_name")
    assert index.classes == ("dalle", "glide", "real", "sd")


# Names that look alike.


def test_labels_equal_to_the_eye_are_merged_with_a_warning(tmp_path):
    spellings = ["Café", unicodedata.normalize("NFD", "Café"), "café", "Café ", "Ca\u200bfé"]
    for place, spelling in enumerate(spellings):
        fill(tmp_path, spelling, 6 if place == 0 else 2, 10 * place)
    fill(tmp_path, "other", 6)
    index = read_index(tmp_path)
    assert index.classes == ("Café", "other")
    assert sum(index.counts()["Café"].values()) == 14
    warned = said(index, "warning")
    assert "merged into 'Café'" in warned
    assert "\\u200b" in warned
    assert "Cafe\\u0301" in warned or "Caf\\xe9" in warned
    assert "2 known" in index.layout


def test_prompts_equal_to_the_eye_are_one_group(tmp_path):
    for number in range(12):
        touch(tmp_path, f"a/prompté{number}.png")
        touch(tmp_path, "b/" + unicodedata.normalize("NFD", f"Prompté{number}") + " .png")
        touch(tmp_path, f"c/prompt\u200bé{number}.png")
    index = read_index(tmp_path)
    assert len({record.group for record in index.records}) == 12
    assert index.crossing_groups == ()


def test_a_split_finds_names_in_another_unicode_form(tmp_path):
    touch(tmp_path, *(f"a/é{n}.png" for n in range(3)), *(f"b/é{n}.png" for n in range(3)))
    names = [unicodedata.normalize("NFD", f"é{n}.png") for n in range(3)]
    split = dict(zip(("train", "val", "test"), ([name] for name in names), strict=True))
    (tmp_path / "Split.json").write_text(json.dumps(split))
    assert folds(read_index(tmp_path), "b") == {"train": 1, "val": 1, "test": 1}


# Counts.


def test_a_single_class_is_an_error_that_names_its_folders(tmp_path):
    for label in ("alpha", "beta"):
        fill(tmp_path, f"mine/{label}", 4)
    index = read_index(tmp_path)
    with pytest.raises(DataError, match=r"single class, mine.*alpha, beta are the classes"):
        refuse_errors(index)
    assert refuse_errors(read_index(tmp_path / "mine")) == ()


def test_a_class_that_the_split_empties_is_an_error(tmp_path):
    for label in ("a", "b", "c"):
        fill(tmp_path, label, 3)
    names = {"a": ["0000.png"], "b": ["0001.png"]}
    (tmp_path / "Split.json").write_text(json.dumps({"train": names, "test": {"a": ["0002.png"]}}))
    with pytest.raises(DataError, match="class c ends with no image"):
        refuse_errors(read_index(tmp_path))


def test_small_classes_are_named(tmp_path):
    fill(tmp_path, "a", 8)
    fill(tmp_path, "one", 1)
    fill(tmp_path, "two", 2)
    (tmp_path / "none").mkdir()
    warned = said(read_index(tmp_path), "warning")
    assert "class one has 1 image," in warned
    assert "class two has 2 images," in warned
    assert "none has no images" in warned


def test_step_folders_have_a_line_of_their_own(tmp_path):
    for folder in ("step1", "Step 2", "sdxl", "flux"):
        fill(tmp_path, folder, 6)
    index = read_index(tmp_path)
    assert index.classes == ("flux", "sdxl")
    assert "Step 2, step1 left out as post-processed copies" in said(index, "warning")
    assert read_index(tmp_path, layout="class").classes == ("Step 2", "flux", "sdxl", "step1")


def test_droppings_and_companions_are_passed_over(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path, label, 4)
        touch(
            tmp_path,
            *(f"{label}/0000.{end}" for end in ("txt", "caption", "npz", "safetensors", "json")),
            *(f"{label}/{name}" for name in ("._0000.png", "Thumbs.db", ".DS_Store", "x.ckpt")),
            f"{label}/@eaDir/0000.png/SYNOPHOTO_THUMB_S.jpg",
            f"__MACOSX/{label}/._0000.png",
            f"#recycle/{label}/old.png",
            f"$RECYCLE.BIN/{label}.png",
            *(
                f"{label}/{folder}/0000.png"
                for folder in (".AppleDouble", "thumbnails", "@Recycle")
            ),
        )
    index = read_index(tmp_path)
    assert Counter(record.label for record in index.records) == {"a": 4, "b": 4}
    assert index.rejects == ()
    assert inspect(index) == ()


def test_archives_beside_the_classes_are_warned_of(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path, label, 4)
    touch(tmp_path, "c.zip", "d.tar.gz", "index.parquet")
    assert "c.zip, d.tar.gz left out" in said(read_index(tmp_path), "warning")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.zip", "unpack it, then"),
        ("a.tgz", "leak data unpack"),
        ("data-00000-of-00001.arrow", "to_parquet"),
    ],
)
def test_a_folder_of_archives_alone_is_refused_with_the_cure(tmp_path, name, cure):
    touch(tmp_path, name, "state.json")
    with pytest.raises(DataError, match=cure):
        read_index(tmp_path)


def test_a_name_that_is_no_utf8_is_scored_but_not_indexed(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    os.close(os.open(os.fsencode(tmp_path) + b"/a/latin\xe9.png", os.O_CREAT))
    found = find_images([str(tmp_path)])
    assert len(found) == 3
    assert all(path.exists() and not reason for path, reason in found)
    assert [r.path for r in read_index(tmp_path).rejects] == ["a/latin\\xe9.png"]


# Tables.


@pytest.mark.parametrize("folder", ["", "images/"])
def test_a_table_beside_images_without_classes_is_named(tmp_path, folder):
    touch(tmp_path, *(f"{folder}{n}.png" for n in range(6)))
    rows = "".join(f"{folder}{n}.png,{n % 2}\n" for n in range(6))
    (tmp_path / "labels.csv").write_text("file,generator\n" + rows)
    with pytest.raises(DataError, match=r"labels\.csv has labels: give that"):
        refuse_errors(read_index(tmp_path))
    assert read_index(tmp_path / "labels.csv").classes == ("0", "1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label\n0.png,nan\n1.png,a\n", "row 2 has no label"),
        ("path,label,label\n0.png,a,x\n1.png,b,y\n", "two columns label"),
        ("path,label,split\n0.png,a,train\n1.png,b,holdout\n", "split holds folds and 'holdout'"),
        ("path,label\nx/0.png,a\nx/1.png,b\n", "none is on disk, x/0.png for one"),
    ],
)
def test_a_table_that_can_be_misread_is_refused(tmp_path, text, reason):
    touch(tmp_path, "0.png", "1.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_index(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.csv", "metadata.csv"])
def test_row_numbers_of_a_data_frame_are_no_folds_or_groups(tmp_path, name):
    touch(tmp_path, *(f"{label}{n}/{n}.png" for label in "ab" for n in range(3)))
    rows = [f"{n},{label}{n}/{n}.png,{label}" for label in "ab" for n in range(3)]
    (tmp_path / name).write_text("\r".join([",file_name,label", *rows]))
    index = read_index(tmp_path if name == "metadata.csv" else tmp_path / name)
    assert {r.group for r in index.records} == {"0", "1", "2"}
    assert "labels from its label column" in index.layout or "label from column" in index.layout


def test_a_table_finds_names_in_another_unicode_form(tmp_path):
    touch(tmp_path, "é1.png", unicodedata.normalize("NFD", "é2.png"))
    rows = unicodedata.normalize("NFD", "é1.png,a\n") + "é2.png,b\n"
    (tmp_path / "t.csv").write_text("path,label\n" + rows)
    assert read_index(tmp_path / "t.csv").classes == ("a", "b")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_with_any_separator_read_alike(tmp_path, separator):
    fill(tmp_path, "x", 6)
    rows = [separator.join([f'"x/{n:04}.png"', f"{n % 2}.0", f"q{n}"]) for n in range(6)]
    text = "\r\n".join([separator.join(["Path", "Label", "Group"]), *rows, separator * 2, '""'])
    (tmp_path / "t.csv").write_text("\ufeff" + text)
    index = read_index(tmp_path / "t.csv")
    assert index.classes == ("0", "1")
    assert {r.group for r in index.records} == {f"q{n}" for n in range(6)}


def test_labels_that_are_versions_keep_their_decimals(tmp_path):
    fill(tmp_path, "x", 2)
    (tmp_path / "t.csv").write_text("path,label\nx/0000.png,1.5\nx/0001.png,2.0\n")
    assert read_index(tmp_path / "t.csv").classes == ("1.5", "2.0")


def test_a_separator_inside_a_value_is_refused_with_the_row(tmp_path):
    fill(tmp_path, "x", 2)
    (tmp_path / "t.csv").write_text("path,label\nx/0000.png,a\nx/a,b.png,a\n")
    with pytest.raises(DataError, match="row 3 has 3 cells for 2 columns"):
        read_index(tmp_path / "t.csv")


def test_images_as_text_in_a_table_are_one_line_that_says_what_to_do(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": [b"\x89PNG\r\n" + bytes(5000)], "label": [0]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="the original Parquet file as --data") as caught:
        read_index(tmp_path / "t.csv")
    assert len(str(caught.value)) < 400


# Inputs of the second look at the layouts.


def test_metadata_in_split_folders_gives_the_prompts_though_the_file_numbers_restart(tmp_path):
    for fold, count in (("train", 6), ("test", 4)):
        fill(tmp_path, fold, count)
        rows = [
            {"file_name": f"{n:04}.png", "text": f"{fold} {n // 2}", "generator": "ab"[n % 2]}
            for n in range(count)
        ]
        (tmp_path / fold / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    index = read_index(tmp_path)
    assert index.classes == ("a", "b")
    assert index.crossing_groups == ()
    assert len({record.group for record in index.records}) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [("sdxl", "\u0455dxl"), ("fIux", "flux"), ("sd-1.5", "sd_1_5"), ("gpt\u03bf", "gpto")],
)
def test_labels_that_look_alike_are_warned_of_and_not_merged(tmp_path, one, other):
    for label in (one, other, "third"):
        fill(tmp_path, label, 4)
    index = read_index(tmp_path)
    assert len(index.classes) == 3
    warned = said(index, "warning")
    assert f"{min(one, other)!a} and {max(one, other)!a} look alike" in warned
    assert "third" not in warned


@pytest.mark.parametrize("name", ["fold", "part_", "Run "])
def test_numbered_parts_above_the_same_folders_are_a_question(tmp_path, name):
    for part in range(3):
        for label in ("flux", "sdxl"):
            fill(tmp_path, f"{name}{part}/{label}", 3, 10 * part)
    with pytest.raises(DataError, match=r"look like parts of a data set.*--layout \*/class"):
        read_index(tmp_path)
    assert read_index(tmp_path, layout="*/class").classes == ("flux", "sdxl")
    assert len(read_index(tmp_path, layout="class").classes) == 3


@pytest.mark.parametrize(
    "sizes", [("512", "1024"), ("256px", "512px", "768px"), ("640x480", "9x9")]
)
def test_folders_of_sizes_are_no_prompts_and_are_named(tmp_path, sizes):
    for label in ("flux", "sdxl"):
        for size in sizes:
            fill(tmp_path, f"{label}/{size}", 5)
    index = read_index(tmp_path)
    assert len({record.group for record in index.records}) == 5
    assert f"the folders {', '.join(sorted(sizes))} below the classes are parts" in index.layout
    assert "*/class" in index.layout


def test_a_cut_that_leaves_a_fold_empty_is_warned_of(tmp_path):
    for label in ("a", "b"):
        touch(tmp_path, f"{label}/one.png", f"{label}/two.png")
    assert "no image is in the fold val" in said(read_index(tmp_path), "warning")


def test_real_or_generated_beside_two_generators_is_a_question(tmp_path):
    fill(tmp_path, "images", 4)
    rows = "".join(f"images/{n:04}.png,{n % 2},{'flux' if n % 2 else 'sdxl'}\n" for n in range(4))
    (tmp_path / "index.csv").write_text("path,label,generator\n" + rows)
    with pytest.raises(DataError, match="--label generator or --label label"):
        read_index(tmp_path / "index.csv")


def test_images_without_a_suffix_count_and_other_files_do_not(tmp_path):
    for label in ("a", "b"):
        for number in range(4):
            touch(tmp_path, f"{label}/{number}")
            (tmp_path / label / str(number)).write_bytes(b"\xff\xd8\xff\xe0 and more")
        (tmp_path / label / "LICENSE").write_text("text")
    assert len(read_index(tmp_path).records) == 8


def test_metadata_that_names_files_outside_is_not_followed(tmp_path):
    fill(tmp_path, "in", 3)
    touch(tmp_path.parent, "secret.png")
    rows = "0000.png,a\n0001.png,b\n0002.png,a\n../../secret.png,b\n"
    (tmp_path / "in" / "metadata.csv").write_text("file_name,label\n" + rows)
    index = read_index(tmp_path)
    assert len(index.records) == 3
    (reject,) = index.rejects
    assert "outside of the data folder" in reject.reason


def test_a_link_to_a_device_is_no_image(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path, label, 3)
    (tmp_path / "a" / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "lost.png").symlink_to("nowhere")
    reasons = {reject.path: reject.reason for reject in read_index(tmp_path).rejects}
    assert reasons == {"a/endless.png": "not a regular file", "a/lost.png": "broken link"}
