from services.worker.stored_names import StoredNames


def test_with_a_block_goes_what_follows_it_and_the_piece_it_needs() -> None:
    names = StoredNames()
    names.add(b"root", parent=b"fingerprint")
    names.add(b"piece", parent=b"root")
    names.add(b"block", parent=b"root", base=b"piece")
    names.add(b"behind", parent=b"block")
    names.add(b"other", parent=b"root", base=b"piece")
    names.add(b"beside", parent=b"root")
    names.forget(b"block")
    left = [name for name in (b"root", b"piece", b"block", b"behind", b"other", b"beside") if name in names]
    assert left == [b"root", b"beside"]
    names.forget(b"root")
    assert b"beside" not in names


def test_a_block_that_a_lookup_found_keeps_its_place() -> None:
    names = StoredNames()
    names.add(b"block", parent=b"root", base=b"piece")
    names.add(b"piece", parent=b"root")
    names.add(b"block")
    names.forget(b"root")
    assert b"block" not in names


def test_those_not_named_for_longest_are_forgotten() -> None:
    names = StoredNames(most=2)
    names.add(b"a", parent=b"root")
    names.add(b"b", parent=b"root")
    names.add(b"a")
    names.add(b"c", parent=b"root")
    assert [name for name in (b"a", b"b", b"c") if name in names] == [b"a", b"c"]
    names.forget(b"unknown")
    names.forget(b"root")
    assert b"a" not in names
