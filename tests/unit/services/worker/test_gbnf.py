import pytest

from services.worker.gbnf import GrammarError, parse
from services.worker.grammar_check import check_grammar
from tests.fakes.gbnf_recogniser import Recogniser


@pytest.mark.parametrize(
    ("grammar", "accepted", "refused"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "yesno", "ye"]),
        ("root ::= [a-c]+ # letters\n", ["a", "cab"], ["", "d"]),
        ('root ::= item ("," item)*\nitem ::= [0-9]{2,3}', ["12", "12,345"], ["1", "12,", "1234"]),
        ('root ::= (\n"a"\n| "b")', ["a", "b"], ["ab"]),
        ('root ::= [^\\]"\\\\] "\\t" "\\x41" "\\u00e9" .', ["x\tA\u00e9?"], ["]\tA\u00e9?"]),
        ('root ::= "a"? "b"{2} "c"{1,}', ["bbc", "abbccc"], ["abc", "bb"]),
        ("root ::= [+-]", ["+", "-"], ["a"]),
    ],
)
def test_a_grammar_is_read_as_llama_cpp_reads_it(grammar: str, accepted: list[str], refused: list[str]) -> None:
    check_grammar(grammar)
    recogniser = Recogniser(grammar)
    assert [text for text in accepted if not recogniser.accepts(text)] == []
    assert [text for text in refused if recogniser.accepts(text)] == []


@pytest.mark.parametrize(
    ("grammar", "line", "column"),
    [
        ("", 1, 1),
        ('start ::= "a"', 1, 14),
        ('root = "a"', 1, 6),
        ('root ::= "a', 1, 10),
        ('root ::= "a"\nother ::= [a', 2, 11),
        ('root ::= ("a" | "b"', 1, 10),
        ('root ::= "a")', 1, 13),
        ("root ::= item", 1, 10),
        ("root ::= *", 1, 10),
        ('root ::= "a"{5,2}', 1, 13),
        ('root ::= "a"{x}', 1, 13),
        ('root ::= "\\q"', 1, 11),
        ('root ::= "a"{9999}', 1, 13),
        ('root ::= "a"\n@', 2, 1),
    ],
)
def test_a_fault_is_named_by_line_and_column(grammar: str, line: int, column: int) -> None:
    with pytest.raises(GrammarError) as caught:
        check_grammar(grammar)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"line {line}, column {column}: ")


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= root "a" | "b"',
        'root ::= a\na ::= b "x"\nb ::= a | "y"',
        'root ::= empty root "x" | "y"\nempty ::= maybe\nmaybe ::= "z" |',  # llama.cpp overlooks this one and hangs
        'root ::= ("a"*)*',
        'root ::= ("a" | "b"?)+',
    ],
)
def test_left_recursion_is_refused(grammar: str) -> None:
    with pytest.raises(GrammarError):
        check_grammar(grammar)


def test_what_would_take_exponential_time_is_refused() -> None:
    rules = "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60))
    with pytest.raises(GrammarError, match="too many ways"):
        check_grammar(f'root ::= r0\n{rules}\nr60 ::= "x"')


def test_nested_repetitions_beyond_reason_are_refused() -> None:
    with pytest.raises(GrammarError):
        check_grammar('root ::= ((("a" | "b"){1,200} "c"){1,200} "d"){1,200}')


def test_deep_parentheses_are_refused() -> None:
    with pytest.raises(GrammarError, match="nested"):
        check_grammar("root ::= " + "(" * 100_000)


def test_a_long_chain_of_rules_is_fine() -> None:
    rules = "\n".join(f"r{i} ::= r{i + 1}?" for i in range(2000))
    check_grammar(f'root ::= r0\n{rules}\nr2000 ::= "x"')


def test_of_rules_with_one_name_the_last_one_holds() -> None:
    assert Recogniser('root ::= "a"\nroot ::= "b"').accepts("b")
    assert len(parse('root ::= "a"\nroot ::= "b"')) == 1
