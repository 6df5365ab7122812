"""Bytes as text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data import DataError
from backprop_xp.data.encodings import decode

TEXT = "größe,farbe\n1,rød\n2,blå\n" * 3
PATH = Path("t.csv")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]
)
def test_what_is_recognised(encoding):
    text, note = decode(PATH, TEXT.encode(encoding))
    assert text == TEXT
    assert (note is None) == encoding.startswith("utf-8")
    assert decode(PATH, TEXT.encode(encoding), encoding.removesuffix("-sig"))[0].removeprefix("\ufeff") == TEXT


@pytest.mark.parametrize(
    "text, encoding", [("слово,число\n1,2\n", "cp1251"), ("赤,青\n1,2\n", "shift_jis"), ("颜色,数\n1,2\n", "gbk")]
)
def test_what_is_not_recognised_is_named_and_can_be_said(text, encoding):
    content = b"a\r\nb\r\n" + text.encode(encoding)
    with pytest.raises(
        DataError, match=rf"no UTF-8 text: byte 0x{content[6]:02x} at offset 6 of the file, in line 3; .* --encoding"
    ):
        decode(PATH, content)
    assert decode(PATH, content, encoding) == ("a\r\nb\r\n" + text, None)


def test_a_damaged_byte_is_named_not_guessed_at():
    content = TEXT.encode() + b"x\xff\n"
    with pytest.raises(DataError, match=f"byte 0xff at offset {len(TEXT.encode()) + 1} of the file, in line 10"):
        decode(PATH, content)
    for damaged, offset in ((b"\xef\xbb\xbfab\xff", 5), (b"\xff\xfea\0\0\xd8", 4)):
        with pytest.raises(DataError, match=f"at offset {offset} of the file"):
            decode(PATH, damaged)


def test_encodings_that_are_none():
    for name in ("utf-9", "rot13", "hex", "\0"):
        with pytest.raises(ValueError, match="unknown encoding"):
            decode(PATH, b"a", name)
    with pytest.raises(DataError, match="no ASCII text: byte 0xc3 at offset 2"):
        decode(PATH, TEXT.encode(), "ascii")


@given(st.binary(max_size=40))
def test_any_bytes(content):
    try:
        text, _ = decode(PATH, content)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(text, str)
