import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from purify_edge.errors import InputError
from purify_edge.run.results import FORMATS, Csv, JsonLines, Result, ResultsFile

pytestmark = pytest.mark.once

MODEL = "pair/fp32@0123456789ab"


def good(file: str, **more: object) -> Result:
    answer = {"label": 1, "class_name": "Bag", "probability": 0.5, "unpurified_class": "Coat"}
    return Result(file=file, model=MODEL, **(answer | {"unpurified_probability": 0.25} | more))  # type: ignore[arg-type]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12) | st.just(
    'odd\udcff name,\r\n"quoted".png'
)
NUMBER = st.none() | st.floats(0, 1e6, allow_nan=False)
RESULT = st.builds(
    Result,
    file=TEXT,
    frame=st.none() | st.integers(0, 10**9),
    time_s=NUMBER,
    label=st.none() | st.integers(0, 1000),
    class_name=st.none() | TEXT,
    probability=NUMBER,
    suspicion=NUMBER,
    suspicious=st.none() | st.booleans(),
    error=st.none() | TEXT,
    model=TEXT,
)


@pytest.mark.parametrize("form", [JsonLines(), Csv()])
@settings(max_examples=150)
@given(results=st.lists(RESULT, max_size=5), cut=st.integers(0, 400))
def test_what_is_written_is_read_back_and_nothing_that_is_cut_off_is(
    tmp_path_factory: pytest.TempPathFactory, form: JsonLines | Csv, results: list[Result], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "results"
    encoded = [form.encode(result) for result in results]
    content = form.header + b"".join(encoded)
    path.write_bytes(content)
    with path.open("rb") as file:
        assert list(form.decode(file)) == results
    path.write_bytes(content[: len(form.header) + cut])
    whole, length = 0, 0
    for line in encoded:
        length += len(line)
        whole += length <= cut
    with path.open("rb") as file:
        assert [result for result in form.decode(file) if result] == results[:whole]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_was_cut_off_is_gone_on_with(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"results{suffix}"
    form = FORMATS[suffix]
    first = ResultsFile(path, model=MODEL)
    assert not first.resumed
    first.append([good("a.png"), good("b.mp4", frame=0, time_s=0.0), Result(file="c.png", error="bad", model=MODEL)])
    first.close()
    whole, both = path.read_bytes(), {("a.png", None, None), ("b.mp4", 0, 0.0)}
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        again = ResultsFile(path, model=MODEL)
        assert again.resumed
        assert again.done <= both  # what could not be read is tried again
        again.append([good(file, frame=frame, time_s=time_s) for file, frame, time_s in both - again.done])
        again.append([good("c.png")])
        again.close()
        with path.open("rb") as file:
            found = list(form.decode(file))
        assert sorted(result.file for result in found if result) == ["a.png", "b.mp4", "c.png"], length
        assert None not in found
    assert list(path.parent.iterdir()) == [path]


def test_an_image_whose_purified_image_is_not_whole_is_not_done(tmp_path: Path) -> None:
    out, folder = tmp_path / "results.jsonl", tmp_path / "purified"
    folder.mkdir()
    for name in ("whole", "cut", "empty", "gone"):
        Image.new("L", (28, 28)).save(folder / f"{name}.png")
    with (folder / "cut.png").open("r+b") as file:
        file.truncate(60)
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.png").unlink()
    Image.new("L", (28, 28)).save(tmp_path / "elsewhere.png")
    results = ResultsFile(out, model=MODEL, save=folder)
    results.append([good(name, saved=str(folder / f"{name}.png")) for name in ("whole", "cut", "empty", "gone")])
    results.append([good("unsaved"), good("elsewhere", saved=str(tmp_path / "elsewhere.png"))])
    results.close()
    again = ResultsFile(out, model=MODEL, save=folder)
    assert again.done == {("whole", None, None)}
    assert again.saved == [str(folder / "whole.png")]
    again.close()
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == ["whole"]


def test_damage_in_the_middle_costs_no_more_than_what_it_hit(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = [JsonLines().encode(good(f"{name}.png")) for name in "abc"]
    path.write_bytes(lines[0] + b"\0" * 40 + b"\n" + lines[1] + lines[1] + b'{"file": 3}\n' + b"[]\n" + lines[2])
    results = ResultsFile(path, model=MODEL)
    results.close()
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"name,age\r\nx,3\r\n", b'{"a": 1}\n', b"\x89PNG", b"f"])
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"results{suffix}"
    path.write_bytes(content)
    if (suffix, content) == (".csv", b"f"):  # a header that was cut off
        ResultsFile(path, model=MODEL).close()
        return
    with pytest.raises(InputError, match="exists and holds no results of purify-run; name another, or use --force"):
        ResultsFile(path, model=MODEL)
    assert path.read_bytes() == content
    ResultsFile(path, model=MODEL, fresh=True).close()
    assert path.read_bytes() == FORMATS[suffix].header


def test_two_processes_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(JsonLines().encode(good("a.png")) + b"torn")
    first = ResultsFile(path, model=MODEL)  # which replaces the file
    with pytest.raises(InputError, match="is being written by another purify-run"):
        ResultsFile(path, model=MODEL)
    first.close()
    ResultsFile(path, model=MODEL).close()


def test_every_field_has_a_column() -> None:
    columns = Csv.header.decode().strip().split(",")
    assert len(columns) == len(Result.__struct_fields__)
    assert columns[:5] == ["file", "frame", "time_s", "label", "class"]


def test_frames_of_a_stream_are_other_ones_each_day(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for day in range(3):
        results = ResultsFile(path, model=MODEL)
        results.append([good("0", frame=0, time_s=86_400.0 * day), good("0", frame=1, time_s=86_400.0 * day + 1)])
        results.close()
    assert path.read_bytes().count(b"\n") == 6
