"""Folding of distinguished names: what is one name, what are two, and what is none."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import dn


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=Ann,DC=acme", "cn=ann,dc=ACME"),
        ("CN=Ann, DC=acme", "CN=Ann,DC=acme"),
        ("CN = Ann ,DC=acme", "CN=Ann,DC=acme"),
        (r"CN=D'Arcy\, Jr.,DC=acme", r"CN=D'Arcy\2C Jr.,DC=acme"),
        (r"CN=a\+b,DC=acme", r"CN=a\2bb,DC=acme"),
        (r"CN=Smith=Jones,DC=acme", r"CN=Smith\3DJones,DC=acme"),
        (r"CN=a\=b", "CN=a=b"),
        (r"CN=\#hash", r"CN=\23hash"),
        (r"CN=\ x", r"CN=\20x"),
        (r"CN=x\ ", r"CN=x\20"),
        (r"CN=x\\ ", r"CN=x\\"),
        (r"CN=new\0Aline", r"cn=NEW\0aLINE"),
        ("CN=Müller,OU=Süd", r"cn=M\C3\BCLLER,ou=SÜD"),
        ("CN=e\u0301", "CN=\u00c9"),
        ("CN=Straße", "CN=STRASSE"),
        ("CN=ＡＢ", "CN=ab"),
        ("CN=a+OU=b,DC=x", "OU=B+CN=A,DC=x"),
        ("CN=a + OU=b,DC=x", "CN=a+OU=b,DC=x"),
        ("OID.2.5.4.3=a", "2.5.4.3=a"),
        ("CN=#0403414243", "cn=#0403414243"),
        (r"CN=a\;b", r"CN=a\3Bb"),
        (r"CN=\"q\"", r"CN=\22q\22"),
        ("CN=,DC=x", "cn=,dc=x"),
    ],
)
def test_two_ways_of_writing_one_name_fold_alike(one: str, other: str) -> None:
    assert dn.fold(one) == dn.fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"CN=a\,OU=b", "CN=a,OU=b"),
        (r"CN=\ x", "CN=x"),
        (r"CN=x\ ", "CN=x"),
        ("CN=a  b", "CN=a b"),
        (r"CN=a\+OU=b", "CN=a+OU=b"),
        (r"CN=\#0403414243", "CN=#0403414243"),
        ("CN=a,OU=b", "OU=a,CN=b"),
        (r"CN=\\,OU=x", r"CN=\,OU=x"),
        ("CN=Müller", "CN=Muller"),
    ],
)
def test_two_names_stay_two(one: str, other: str) -> None:
    assert dn.fold(one) != dn.fold(other)


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "x", "=x", "CN=a,", "CN=a,,DC=x", "CN=a,DC", "C N=a", "CN=a\\", r"CN=\FF", "+", "CN=a+", "CN=a++OU=b"],
)
def test_what_is_no_name_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        dn.fold(wrong)


def test_a_name_beyond_any_measure_is_refused_quickly() -> None:
    with pytest.raises(ValueError):
        dn.fold("CN=" + "a" * dn.LONGEST)
    with pytest.raises(ValueError):
        dn.fold("CN=a," * (dn.LONGEST // 5 + 1) + "DC=x")


def test_a_name_of_many_components_folds() -> None:
    deep = ",".join(["OU=A"] * (dn.LONGEST // 5))
    assert dn.fold(deep) == deep.lower()


def test_split_gives_the_parent_as_written() -> None:
    assert dn.split(r"CN=a\,b\\, OU=X,DC=y") == (r"CN=a\,b\\", "OU=X,DC=y")
    assert dn.split("DC=y") == ("DC=y", "")
    assert dn.fold_with_parent(r"CN=A\2CB,OU=X,DC=y") == (r"cn=a\,b,ou=x,dc=y", "ou=x,dc=y", "OU=X,DC=y")


def test_folding_twice_is_folding_once_for_every_character() -> None:
    letters = "".join(map(chr, range(sys.maxunicode + 1)))
    for letter in letters:
        if unicodedata.category(letter) in ("Cs", "Cn", "Co") or letter in ",+\\":
            continue
        once = dn.fold(f"CN=x{letter}y,DC=z")
        assert dn.fold(once) == once, hex(ord(letter))


def escaped(text: str) -> str:
    """Every byte as a hex pair: the bluntest form RFC 4514 allows."""
    return "".join(f"\\{byte:02X}" for byte in text.encode())


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=4))
def test_escapes_do_not_matter(values: list[str]) -> None:
    blunt = ",".join(f"OU={escaped(value)}" for value in values)
    folded = dn.fold(blunt)
    assert dn.fold(folded) == folded
    assert folded.count("ou=") >= len(values)


@given(st.text(max_size=60))
def test_any_text_folds_or_is_refused(text: str) -> None:
    try:
        dn.fold(text)
    except ValueError:
        return
    assert dn.fold(dn.fold(text)) == dn.fold(text)
