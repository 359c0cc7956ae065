"""How much room a folder takes."""

import pytest

from proximo.runs.storage.files import room_of


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([], "1 MB"),
        ([300_000], "1 MB"),
        ([2_400_000, 1_000_000], "3 MB"),
        ([999_400_000], "999 MB"),
        ([1_449_000_000], "1.4 GB"),
    ],
)
def test_all_files_below_a_folder_count_and_none_outside_it(tmp_path, sizes, told):
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    with open(outside, "r+b") as file:
        file.truncate(10**12)  # holes take no room on the disk
    inside = tmp_path / "run"
    (inside / "checkpoints" / "final").mkdir(parents=True)
    (inside / "link").symlink_to(outside)
    for i, size in enumerate(sizes):
        place = inside / "checkpoints" / "final" / f"{i}" if i else inside / "first"
        with open(place, "wb") as file:
            file.truncate(size)
    assert room_of(inside) == told
