from pathlib import Path

from product_mil.files.digests import digest_of


def test_the_digest_of_a_file_follows_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"")
    other.write_bytes(b"x" * (3 << 20))
    assert digest_of(one) == "99aa06d3014798d86001c324468d497f"  # xxh3_128 of nothing
    before = digest_of(other)
    other.write_bytes(b"x" * (3 << 20) + b"y")
    assert len(before) == 32
    assert digest_of(other) != before
