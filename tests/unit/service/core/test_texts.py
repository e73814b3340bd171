"""Texts that repeat what a caller sent or list names: short, printable, and cut at a character."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from service.core.texts import MAX_LISTED, bounded, listed, quoted, sent_bytes

# Any text, surrogates and controls included, often longer than the limits.
TEXTS = st.one_of(st.text(st.characters()), st.text(st.characters(), min_size=1).map(lambda text: text * 99))


@given(TEXTS)
def test_the_sent_length_is_that_of_percent_encoding(text: str) -> None:
    printable = bounded(text, 10_000)
    # gRPC leaves every printable ASCII character but % as it is.
    unchanged = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
    assert sent_bytes(printable) == len(quote(printable, safe=unchanged))


@given(TEXTS, st.integers(9, 300))
def test_a_bounded_text_is_printable_and_within_its_limit(text: str, limit: int) -> None:
    shown = bounded(text, limit)
    assert sent_bytes(shown) <= limit
    assert shown.isprintable()
    assert bounded(shown, limit) == shown


def test_a_short_printable_text_stays_as_it_is() -> None:
    for text in ("", "input 'x': shape expected [-1, 4]", "naïve 😀 100 %", "x" * 100):
        assert bounded(text, 100) == text


def test_a_text_is_cut_at_a_character_and_ends_with_an_ellipsis() -> None:
    assert bounded("x" * 101, 100) == "x" * 91 + "…"
    assert bounded("é" * 50, 100) == "é" * 15 + "…"


def test_characters_that_do_not_print_become_escapes() -> None:
    assert bounded("a\nb\x00c\ud800d\u202ee", 100) == r"a\nb\x00c\ud800d\u202ee"


def test_a_quoted_value_is_its_repr_and_of_a_string_only_the_beginning() -> None:
    assert (quoted("x"), quoted("\n"), quoted(7)) == ("'x'", r"'\n'", "7")
    assert quoted("x" * 1_000_000) == repr("x" * 64 + "…")


def test_a_list_names_a_few_items_and_counts_the_others() -> None:
    assert listed([]) == "none"
    assert listed([1, 5]) == "[1, 5]"
    assert listed(["a", "b"], wanted="b") == "['a', 'b']"
    assert listed(range(10_000)) == "[0, 1, 2, 3, 4, 5, 6, 7] and 9,992 more"


def test_the_name_that_was_mistyped_comes_first() -> None:
    names = sorted(f"team-{number % 7}-segmentation-{number:04d}" for number in range(340))
    mistyped = (
        "team-3-segmentation-0108",
        "team-3-segmntation-0108",
        "taem-3-segmentation-0108",
        "3-segmentation-0108",
    )
    for wanted in mistyped:
        shown = listed(names, wanted)
        assert shown.startswith("['team-3-segmentation-0108', "), wanted
        assert shown.endswith(f"and {340 - MAX_LISTED} more")
