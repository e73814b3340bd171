"""Reading a tokens file, and checking a token for a right."""

from pathlib import Path

import pytest

from service.core.auth import BadTokensFile, read_tokens_file
from service.core.errors import PermissionDenied, Unauthenticated
from tests.support.tokens import CALLER, OPERATOR, token_line


def test_a_token_grants_only_the_rights_on_its_line(tokens_file: Path) -> None:
    tokens = read_tokens_file(tokens_file)
    tokens.check(f"Bearer {OPERATOR}".encode(), "control")
    with pytest.raises(PermissionDenied):
        tokens.check(f"Bearer {CALLER}", "control")
    with pytest.raises(Unauthenticated):
        tokens.check(b"Bearer \xff\xfe", "infer")


def test_a_right_for_one_model_covers_no_other_and_not_all(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(
        token_line(CALLER, "infer:a#1,infer:b:c,control:a#1") + token_line(OPERATOR, "infer")
    )
    tokens = read_tokens_file(tmp_path / "tokens")
    access = tokens.check(f"Bearer {CALLER}", "infer")
    for right, model in (("infer", "a#1"), ("infer", "b:c"), ("control", "a#1")):
        access.check(right, model)
    for right, model, missing in (
        ("infer", "a", "'infer:a'"),
        ("infer", "b", "'infer:b'"),
        ("control", "b:c", "'control:b:c'"),
        ("infer", "", "'infer'"),
        ("control", "", "'control'"),
    ):
        with pytest.raises(PermissionDenied, match=missing):
            access.check(right, model)
    tokens.check(f"Bearer {OPERATOR}", "infer").check("infer", "any")


def test_a_comment_begins_a_line_or_follows_a_space(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"# {CALLER}\n{token_line(CALLER, 'infer:a#1').strip()}\t# of the team #2\n")
    read_tokens_file(tmp_path / "tokens").check(f"Bearer {CALLER}", "infer").check("infer", "a#1")


def test_tokens_that_take_the_place_of_others_are_the_only_ones(tokens_file: Path, tmp_path: Path) -> None:
    tokens = read_tokens_file(tokens_file)
    (tmp_path / "new").write_text(token_line("new", "infer"))
    tokens.replace(read_tokens_file(tmp_path / "new"))
    tokens.check("Bearer new", "infer")
    assert len(tokens) == 1
    with pytest.raises(Unauthenticated):
        tokens.check(f"Bearer {CALLER}", "infer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no tokens"),
        ("# a comment\n", "holds no tokens"),
        (CALLER, ":1: expected a SHA-256"),
        (
            token_line(CALLER, "infer") + token_line(OPERATOR, "infer,everything"),
            ":2: expected rights from infer, control",
        ),
        (token_line(CALLER, "infer:"), ":1: expected rights from infer, control"),
        (token_line(CALLER, "infer,train:double"), "got infer, train:double"),
        (token_line(CALLER, "infer:two words"), ":1: expected a SHA-256"),
        (token_line(CALLER, "infer", "2027-02-30"), "2027-02-30 is not a date"),
    ],
)
def test_an_invalid_tokens_file_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(BadTokensFile, match=message):
        read_tokens_file(tmp_path / "tokens")


def test_a_byte_order_mark_before_the_first_token_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(token_line(CALLER, "infer"), encoding="utf-8-sig")
    read_tokens_file(tmp_path / "tokens").check(f"Bearer {CALLER}", "infer")


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    text = "# of the team\u2028in the\x85office\r\n" + token_line(CALLER, "infer")
    (tmp_path / "tokens").write_text(text, encoding="utf-8")
    read_tokens_file(tmp_path / "tokens").check(f"Bearer {CALLER}", "infer")
