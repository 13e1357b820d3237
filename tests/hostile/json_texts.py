"""Texts that are JSON, texts that are not, and texts on which the standard leaves a choice: RFC 8259, case by case.

`Text.verdict` is what a server must do with the text as a value: `yes` takes it, `no` refuses it as no JSON, `own` is
valid or open in the standard and refused by us with 400 on purpose, `open` may be taken or refused, but never fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Verdict = Literal["yes", "no", "own", "open"]
_SENTENCE: Final = "Der Zug fährt um 7 ab — bonne route, 旅の無事を 🚂"


@dataclass(frozen=True)
class Text:
    """One text; `constant`: it names a number that is none, which some dialects take by their own rules."""

    name: str
    data: bytes
    verdict: Verdict
    constant: bool = False


def texts() -> list[Text]:
    """The corpus."""
    return [*_numbers(), *_strings(), *_structures(), *_words(), *_spaces(), *_encodings(), *_chosen()]


def _each(verdict: Verdict, kind: str, given: list[str | bytes]) -> Iterator[Text]:
    for text in given:
        data = text.encode() if isinstance(text, str) else text
        yield Text(f"{kind} {data[:40]!r}", data, verdict)


def _numbers() -> Iterator[Text]:
    yield from _each("yes", "number", [
        "0", "-0", "7", "-7", "10", "1234567890", "0.5", "-0.5", "0.0", "-0.0", "1.0", "3.000", "123.456", "0.1e1",
        "1e5", "1E5", "1e+5", "1E+5", "1e-5", "1E-05", "0e0", "0E+0", "-0e-0", "0e999", "0.0e999", "1e-400",
        "-1e-999",
        "1.5e300", "1e308", "2.2250738585072011e-308", "5e-324", "1.7976931348623157e308", "0.1",
        "0.30000000000000004",
        "16777217", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
        "18446744073709551615", "0." + "1" * 400, "1." + "0" * 1_000, "1e-" + "0" * 100 + "1",
    ])  # fmt: skip
    yield from _each("no", "number", [
        "01", "-01", "00", "0123", "+1", "++1", "-", "+", "--1", "-+1", "+-1", "1.", "-1.", ".5", "-.5", "0.e1",
        "1.e5", ".e1",
        "1e", "1e+", "1e-", "1E", "e5", "1e5.5", "1e1e1", "1.2.3", "0x1F", "0X1", "0b101", "0o17", "017", "1_000",
        "1,5",
        "1 000", "1'000", "1f", "1d", "1L", "1n", "1u", "10%", "$5", "5€", "1/2", "- 1", "1 .5", "1. 5", "1 e5", "∞",
        "½", "²",
        "１", "٣", "1+2", "2-1", "(1)", "1;", "0xFFp2", "1e0x1", "-e5", ".", "..", "1..2",
    ])  # fmt: skip
    for name in ("NaN", "Infinity", "-Infinity"):
        yield Text(f"constant {name}", name.encode(), "no", constant=True)
    yield from _each("no", "constant", [
        "nan", "NAN", "-NaN", "+NaN", "inf", "-inf", "Inf", "+Infinity", "infinity", "INFINITY", "-infinity",
        "1.#INF", "#N/A",
        "NaN(7)", "Infinity1", "NaNN",
    ])  # fmt: skip
    yield from _each("open", "number beyond", [
        "1e999", "-1e999", "1e309", "2e308", "1e" + "9" * 50, "9" * 400, "-" + "9" * 400, "9" * 5_000,
        "1" + "0" * 4_000 + ".5",
        "18446744073709551616", "-9223372036854775809", "1e-" + "9" * 50,
    ])  # fmt: skip


def _strings() -> Iterator[Text]:
    quoted = [f'"{text}"' for text in (
        "", "a", " ", _SENTENCE, "\\\\", '\\"', "\\/", "/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u0041", "\\u00e9",
        "\\u20AC",
        "\\u20ac", "\\u0000", "\\u001f", "\\u007f", "\x7f", "\\uFFFF", "\\uFFFE", "\\uFDD0", "\\uFEFF", "\ufeff",
        "\\u2028",
        "\u2028", "\u2029", "\u0085", "\u00a0", "\u200b", "\u202e", "\ufffd", "\uffff", "\ufdd0", "\U0010ffff",
        "\U0001f682",
        "\\ud83d\\ude82", "\\uD83D\\uDE82", "\\udbff\\udfff", "\\ud800\\udc00", "a\\u0000b", "\\\\u0041", "\\\\\\\\",
        "\\\\\\\"",
        "null", "true", "1", "{}", "[]", "a:b", "a,b", "// not a comment", "/* nor this */", "'", "`", "é", "e\u0301",
        "ß",
        "ｆｕｌｌ", "مرحبا", "שלום", "a" * 1_000, "\\u0061" * 300, "<script>", "%s%n", "${x}", "; DROP TABLE",
        "__proto__",
    )]  # fmt: skip
    yield from _each("yes", "text", list(quoted))
    yield from _each("no", "text", [
        '"', '"a', 'a"', '"\\"', '"\\', '"\\a"', '"\\x41"', '"\\0"', '"\\1"', '"\\\'"', '"\\ "', '"\\U0041"', '"\\u"',
        '"\\u0"',
        '"\\u00"', '"\\u004"', '"\\u004g"', '"\\u{41}"', '"\\u 041"', '"\\u-041"', '"\\u+041"', '"\\N"', '"\\v"',
        '"\\e"',
        '"\\\n"', "'a'", "''", "`a`", '"a" "b"', '"a""b"', '"a"b', 'a"b"', "“a”", "«a»", "a", "abc", "é",
        '"\\ud83d\\u"', '"\\ud83d\\', '"""a"""', 'r"a"', 'b"a"', 'u"a"', '"a"+"b"', "\\u0022a\\u0022",
        "&quot;a&quot;",
    ])  # fmt: skip
    for code in range(0x20):
        yield Text(f"control {code:#04x} in a text", b'"a' + bytes([code]) + b'b"', "no")


def _structures() -> Iterator[Text]:
    yield from _each("yes", "structure", [
        "[]", "{}", "[[]]", "[{}]", '{"":0}', '{"a":{}}', '{"a":[]}', '{"a":null}', "[null]", "[1,2,3]",
        '[1,"a",null,true,{}]',
        '{"a":1,"b":2}', '{"a":{"a":{"a":1}}}', '{"\\u0061":1}', '{"A":1,"a":2}', '{"a\\u0000":1}', '{" ":1," a":2}',
        '{"é":1}',
        '{"1":1,"01":2}', "[" * 50 + "]" * 50, '{"a":' * 50 + "1" + "}" * 50, "[" + "0," * 999 + "0]", "[[],[],[[]]]",
        '{"rows":[]}', '{"inputs":null}', '{"instances":1}', '[{"a":1},{"a":1}]', '{"a":[{"a":1}]}',
    ])  # fmt: skip
    yield from _each("no", "structure", [
        "[", "]", "{", "}", "[}", "{]", "[1", "[1,", "1]", "[1]]", "[[1]", "{{}}", "[,]", "[1,]", "[,1]", "[1,,2]",
        "[1,,]", "[1 2]",
        "[1;2]", "[1:2]", '["a":1]', "[a]", "[1,2}", '{"a"}', '{"a":}', '{:1}', "{1}", "{1:1}", "{null:1}",
        "{true:1}", "{[]:1}",
        "{a:1}", "{'a':1}", '{"a",1}', '{"a"=1}', '{"a"=>1}', '{"a"::1}', '{"a":1:2}', '{"a":1,}', '{,"a":1}',
        '{"a":1,,"b":2}',
        '{"a":1 "b":2}', '{"a":1;"b":2}', '{"a":1', '{"a":', '{"a"', '{"a":1}}', '{"a":1}{', '{"a" "b"}', '{"a":"b"',
        "(1,2)", "<a/>",
        "[1...3]", "[*]", "{...a}", '{"a":1}\n{"a":2}', "[][]", "[]{}", "1 2", "1,2", '{"a":b}', "[1,\n]", "[,,]",
        "[-]", '{"a":.}',
    ])  # fmt: skip


def _words() -> Iterator[Text]:
    yield from _each("yes", "word", ["null", "true", "false"])
    yield from _each("no", "word", [
        "Null", "NULL", "nul", "nulll", "nil", "None", "undefined", "True", "TRUE", "tru", "truee", "False", "FALSE",
        "fals", "yes",
        "no", "on", "off", "t", "f", "n", "null null", "truefalse", "!true", "not true", "-null", "+true", "nu ll",
        "void 0",
        "function(){}", "new Date()", "Date(0)", "/a/", "@a", "&a", "#", "# no comment", "// no comment",
        "/* none */", "--", "---",
        "1 // one", "1 /* one */", "/* one */ 1", "1 # one", "<!-- one --> 1", "a: 1", "=1", "?", "!", "~", "^", "|",
        "\\",
        "(", ")", ";", ":", ",",
    ])  # fmt: skip


def _spaces() -> Iterator[Text]:
    yield from _each("yes", "space", [
        " 1", "1 ", "\t1\t", "\n1\n", "\r\n1\r\n", " \t\r\n 1 \t\r\n ", "[ ]", "{ }", "[ 1 , 2 ]", '{ "a" : 1 }',
        '{\n\t"a"\n:\r1\n}',
        " " * 1_000 + "1",
    ])  # fmt: skip
    yield from _each("no", "space", [
        "", " ", "\n", "\t\t", "\f1", "\v1", "\u00a01", "1\u00a0", "\u20281", "\u20031", "\u200b1", "\u30001",
        "\u00851", "\x1c1",
        "[\f]", "[1,\v2]", "\b1", "\x7f1", "[\u00a0]", '{"a"\u2003:1}', b"\x001", b"1\x00", b"\x00", b"[\x00]",
        b'{"a"\x00:1}',
        b"nu\x00ll",
    ])  # fmt: skip


def _encodings() -> Iterator[Text]:
    for coding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp037"):
        yield Text(f"in {coding}", '{"café":1}'.encode(coding), "no")
    yield from _each("no", "encoding", [
        '"fährt"'.encode("latin-1"), '"旅"'.encode("shift-jis"), '"旅"'.encode("gb18030"),
        b"\xef\xbb\xbf1", b"\xef\xbb\xbf{}", b'\xef\xbb\xbf"a"', b"\xef\xbb", b"\xfe\xff", b"\xff\xfe1\x00",
        b"\xfe\xff\x001",
        b'"\x80"', b'"\xbf"', b'"\xc0\x80"', b'"\xc0\xaf"', b'"\xc1\xbf"', b'"\xc3"', b'"\xc3(', b'"\xc3\x28"',
        b'"\xe2\x82"',
        b'"\xe2\x28\xa1"', b'"\xe0\x80\x80"', b'"\xe0\x80\xaf"', b'"\xe0\x9f\xbf"', b'"\xed\xa0\x80"',
        b'"\xed\xbf\xbf"',
        b'"\xed\xa0\xbd\xed\xba\x82"', b'"\xf0\x80\x80\x80"', b'"\xf0\x8f\xbf\xbf"', b'"\xf0\x9f\x9a"', b'"\xf0\x9f"',
        b'"\xf0"',
        b'"\xf4\x90\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xf8\x88\x80\x80\x80"', b'"\xfc\x84\x80\x80\x80\x80"',
        b'"\xfe"', b'"\xff"',
        b'"\xe9t\xe9"', b"\xff", b"[\xff]", b'{"\xff":1}', b'{"a":\xe2\x82\xac}', b'"a\xffb"',
        b'"' + b"\x80" * 100 + b'"',
        b'"\xf0\x28\x8c\xbc"', b'"\xe2\x82\xac\xe2\x82"', b'"\xc3\xa9\xc3"',
    ])  # fmt: skip


def _chosen() -> Iterator[Text]:
    """What the standard leaves to us: refused where two readers would read two things."""
    yield from _each("own", "half a pair", [
        '"\\ud800"', '"\\udc00"', '"\\ud83d"', '"\\ude82\\ud83d"', '"\\ud83dx"', '"\\ud83d\\u0041"',
        '"\\ud83d\\ud83d\\ude82"',
        '"a\\udfff"', '"\\uDADA"', '["\\ud800"]', '{"\\ud800":1}', '{"a":"\\udead"}', '"\\ud83d\\\\ude82"',
        '"\\ud83d\\n"',
    ])  # fmt: skip
    yield from _each("own", "a name twice", [
        '{"a":1,"a":1}', '{"a":1,"a":2}', '{"a":1,"b":2,"a":3}', '{"a":{"b":1,"b":2}}', '[{"a":1,"a":2}]',
        '{"a":1,"\\u0061":2}',
        '{"":1,"":2}', '{"é":1,"\\u00e9":2}', '{"a":[{"b":{"c":1,"c":1}}]}', '{"a:":1,"a:":2}', '{"a":"x:y","a":"z"}',
        '{"\\/":1,"/":2}', '{"a" :1, "a" :2}',
    ])  # fmt: skip
    for depth in (10_000, 100_000):
        yield Text(f"{depth} lists deep", b"[" * depth + b"]" * depth, "own")
        yield Text(f"{depth} objects deep", b'{"a":' * depth + b"1" + b"}" * depth, "own")
        yield Text(f"{depth} lists, not closed", b"[" * depth, "no")
        yield Text(f"{depth} objects, not closed", b'{"a":' * depth, "no")
        yield Text(f"{depth} ends", b"]" * depth, "no")
    for depth in (500, 900, 1_000, 1_024, 1_500):
        yield Text(f"{depth} lists deep", b"[" * depth + b"]" * depth, "open")
    yield Text("a name of 100 kB", b'{"' + b"n" * 100_000 + b'":1}', "open")
    yield Text("a text of 100 kB", b'"' + b"t" * 100_000 + b'"', "open")
