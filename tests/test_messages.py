"""What a page advises for an error: for messages that are really raised, and not to repeat what repeats itself."""

import ast
import re
from pathlib import Path

import pytest

import qsmals
from qsmals.reports.messages import GENERAL_ADVICE, REGISTRATION_ADVICE, SAME_ADVICE, STEP_ADVICE, with_advice


def text_of(node: ast.AST, constants: dict[str, str]) -> str:
    """The words of an expression; what is put in is a 7."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, "7")
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) if isinstance(part, ast.Constant) else "7" for part in node.values)
    return ""


def raised() -> list[str]:
    """Every message in a ``raise`` of the kernels, the anatomy and the interfaces, with the name of its error."""
    found = []
    for folder in ("recon", "anatomy", "interfaces"):
        for file in sorted((Path(qsmals.__file__).parent / folder).rglob("*.py")):
            tree = ast.parse(file.read_text())
            named = [
                node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            ]
            constants = {node.targets[0].id: text_of(node.value, {}) for node in named}
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                    found.append(f"{ast.unparse(node.exc.func)}: {text_of(node.exc.args[0], constants)}")
    return found


RAISED = raised()


@pytest.mark.parametrize("phrase", [phrase for phrases, _ in STEP_ADVICE for phrase in phrases])
def test_advice_is_for_a_message_that_is_raised(phrase):
    matching = [message for message in RAISED if re.search(phrase, message)]
    assert matching
    advice = next(advice for phrases, advice in STEP_ADVICE if phrase in phrases)
    for message in matching:
        assert with_advice({"step": "x", "message": message})["advice"] == advice, message


def test_what_equal_input_repeats_is_not_to_be_run_again():
    for words in (*(advice for _, advice in STEP_ADVICE), REGISTRATION_ADVICE, SAME_ADVICE):
        assert "same command" not in words and "again:" not in words
    for message in RAISED:
        if message.startswith("ValueError"):
            assert with_advice({"message": message})["advice"] != GENERAL_ADVICE, message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("ValueError: operands could not be broadcast together", "The same images and options fail in the same way"),
        ("numpy.linalg.LinAlgError: singular matrix", "The same images and options fail in the same way"),
        ("OSError: [Errno 5] Input/output error", "Run the same command again"),
        ("registration of sub-01, GRE to T1w: sharpness 1.02 below 1.1", "did not pass its check"),
        ("RuntimeError: antsRegistration failed (No space left on device) while writing x*", "A disk is full"),
    ],
)
def test_other_errors_are_told_by_their_kind(message, words):
    assert words in with_advice({"step": "x", "message": message})["advice"]


def test_code_in_a_traceback_suggests_nothing():
    code = 'Node inputs:\n\nfield strength = 3\n\n  File "a.py", line 7\n    te_s = sidecar["EchoTime"]\n'
    error = {"message": "JobDied: no word", "traceback": f"{code}OSError: it broke\n"}
    assert with_advice(error)["advice"] == GENERAL_ADVICE
    error["traceback"] += "MemoryError: no room\n\nThe above exception was the direct cause\n\nRuntimeError: it broke\n"
    assert "ran out of memory" in with_advice(error)["advice"]
