"""Files that a run appends to are truncated to the state of a checkpoint."""

from tfppo.training.files import cut_back, sizes_of

PATTERNS = ("events.*", "rollouts/responses.gz")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_get_their_earlier_sizes_and_later_ones_disappear(tmp_path):
    (tmp_path / "rollouts").mkdir()
    for name in ("events.1", "rollouts/responses.gz", "rollouts/notes", "metrics.csv"):
        (tmp_path / name).write_text("early")
    sizes = sizes_of(tmp_path, PATTERNS)
    assert sizes == {"events.1": 5, "rollouts/responses.gz": 5}
    early = contents(tmp_path)
    for name in ("events.1", "rollouts/responses.gz"):
        (tmp_path / name).write_text("early and late")
    (tmp_path / "events.2").write_text("late")
    cut_back(tmp_path, PATTERNS, sizes)
    assert contents(tmp_path) == early
    (tmp_path / "events.1").write_text("")  # shorter than it was: it stays as it is
    cut_back(tmp_path, PATTERNS, sizes)
    assert contents(tmp_path) == early | {"events.1": ""}
    cut_back(tmp_path, PATTERNS, {})
    assert sorted(contents(tmp_path)) == ["metrics.csv", "rollouts/notes"]
