"""The benchmark's command, on a tiny selection of cases and without PyTorch; and the tables that it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinygrad_cnn import cli
from tinygrad_cnn.bench import command, report
from tinygrad_cnn.bench.options import Options
from tinygrad_cnn.bench.results import Row, load, merge, save


def bench(*arguments: str) -> None:
    cli.main(["bench", *arguments, "--quick", "--torch", "none", "--seconds", "0.001", "--rounds", "1"])


def test_a_tiny_selection_gives_json_and_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of part, a case each; a later run adds to the file."""
    out, markdown = tmp_path / "bench.json", tmp_path / "bench.md"
    bench("machine", "matmul", "--case", "kernel launch", "128x128 A B", "--threads", "2", "--json", str(out))
    bench("steps", "convs", "--case", "LeNet-5, inf*", "*5x5 forward", "--json", str(out), "--markdown", str(markdown))
    bench("threads", "--threads", "2", "--json", str(out))
    rows = json.loads(out.read_text())["rows"]
    assert [(row["part"], row["name"]) for row in rows] == [
        ("machine", "kernel launch"),
        ("matmul", "128x128 A B"),
        ("inference", "LeNet-5, inference, batch 1"),
        ("first layers", "32x28x28x1->6 5x5 forward"),
        ("more threads", "LeNet-5, training step, batch 128"),
    ]
    assert all(0 < time < 1 for row in rows for times in row["sides"].values() for time in times)
    assert set(rows[1]["sides"]) == {"ours", "numpy"}
    assert set(rows[4]["sides"]) == {"ours", "ours on one thread"} and rows[4]["scaling"] > 0.2
    assert rows[3]["flops"] == 2 * 32 * 28 * 28 * 6 * 25 and rows[3]["peak"] > 1
    assert "| LeNet-5, inference, batch 1 |" in markdown.read_text()
    assert "GFLOP/s" in capsys.readouterr().out


def test_a_side_that_fails_says_at_which_case() -> None:
    with pytest.raises(RuntimeError, match=r"the process of torch eager ended at .*lenet5"):
        cli.main(["bench", "steps", "--quick", "--torch", "true", "--seconds", "0.001", "--rounds", "1"])


def test_the_command_line_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "bench" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    assert "--write-readme" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "argument --threads: at least 1, got 0"),
        (["--rounds", "-1"], "argument --rounds: at least 1, got -1"),
        (["--seconds", "nan"], "argument --seconds: a positive number, got nan"),
        (["--case", "nosuch*"], "no case of machine is called 'nosuch*'"),
        (["--torch", "{folder}/nosuch"], "No such file"),
        (["--torch", "false"], "false has no PyTorch"),
        (["--json", "{folder}"], "directory"),
        (["--json", "{folder}/text"], "text holds no rows"),
        (["--json", "{folder}/nosuch/x.json"], "x.json cannot be written"),
        (["--markdown", "{folder}/nosuch/x.md"], "x.md cannot be written"),
        (["--write-readme", "{folder}/text"], "needs the lines"),
        (["--write-readme", "{folder}/nosuch"], "No such file"),
    ],
)
def test_what_would_lose_the_measurements_is_refused_before_them(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(options: Options) -> Iterator[Row]:
        assert options.patterns, "nothing may be measured"
        return iter(())

    monkeypatch.setitem(command.PARTS, "machine", (measure, 1))
    (tmp_path / "text").write_text("[]")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", "machine", *(argument.format(folder=tmp_path) for argument in arguments)])
    assert message in str(stopped.value) + capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "[]"


ROWS = [
    Row(
        "inference", "net, batch 1", sides={"ours": [0.002, 0.001, 0.003], "torch a": [0.01], "torch b": [0.004, 0.005]}
    ),
    Row("convs", "conv x", sides={"ours": [0.001]}, flops=10**8, peak=200),
    Row("more threads", "net", sides={"ours": [0.001], "one": [0.0015]}, scaling=2),
    Row("more threads", "net before", sides={"ours": [0.001], "one": [0.0015]}),
]


def test_the_readme_table_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_readme(readme, ROWS)
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n") and text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| net, batch 1 | 2.00 ms (1.00-3.00) | 4.50 ms (4.00-5.00) torch b | 2.25 |" in text
    assert "| convs | 1 | 50 | 50 (conv x) |" in text
    assert "| net | 1.00 ms | 1.50 ms one | 1.50 | 2.00 |\n| net before | 1.00 ms | 1.50 ms one | 1.50 |  |" in text
    assert "| geometric mean |  |  | 1.50 |  |" in text
    report.write_readme(readme, ROWS)
    assert readme.read_text() == text


def test_a_readme_without_markers_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("mine\n")
    with pytest.raises(ValueError, match="needs the lines"):
        report.write_readme(readme, ROWS)
    assert readme.read_text() == "mine\n"


def test_new_rows_replace_old_ones_of_their_name(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert load(path) == []
    save(path, ROWS)
    newer = Row("convs", "conv x", sides={"ours": [7.0]})
    assert merge(load(path), [newer]) == [ROWS[0], newer, *ROWS[2:]]
