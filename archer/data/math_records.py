r"""Records of mathematics: a problem and the answer that the maths reward compares with.

Answers stay texts, each a list of them where any is right. Problems come bare, for the template of
their source to put the instruction around them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from archer.data.fields import Fields, Unusable
from archer.data.rows import Row, as_truth, find_truth, gsm8k_answer, is_absent, prompt_of
from archer.rewards.extraction import boxed_answer

PROBLEM = ("problem", "Problem", "question", "Question", "prompt")
ANSWER = ("answer", "Answer", "final_answer")

INSTRUCTIONS = (
    r"\ASolve the following math problem step by step\. The last line of your response should be "
    r"of the form Answer: [^\n]{1,60} is the answer to the problem\.\s+",
    r'Remember to put your answer on its own line after "Answer:"\.\Z',
    r"(Let's think step by step and output the final|Please reason step by step, and put your "
    r"final) answer within \\boxed\{\}\.?\Z",
    r"Present the answer in LaTex format: \\boxed\{Your answer\}\Z",
)
r"""What data sets put around their problems: DAPO-Math-17k (arXiv 2503.14476) asks for ``Answer:``,
DeepScaleR, Skywork-OR1, DeepSeek-R1 and Eurus-2 for ``\boxed{}``. White space before an optional
end would be searched again from each of its characters, so it is stripped instead."""
_INSTRUCTIONS = re.compile("|".join(INSTRUCTIONS))
_BOX_OF_TOKEN = re.compile(r"\\f?boxed\s+([^{\s$][^$\n]*)|\\fbox(?=\s*\{)")
r"""``\boxed 5`` or ``\fbox{5}``, as some solutions of MATH (arXiv 2103.03874) have it."""


@dataclass(frozen=True)
class ProblemAndAnswer:
    """A reader of records with a column for each."""

    problem: tuple[str, ...] = PROBLEM
    answer: tuple[str, ...] = ANSWER

    def __call__(self, fields: Fields) -> Row:
        return fields.row(fields.problem(*self.problem), answer_in(fields, *self.answer))


def answer_in(fields: Fields, *columns: str) -> str | list[str]:
    """The answer in the first of these columns, or the list of those that are right.

    Raises:
        Unusable: it is null, blank, an empty list or one with an empty item, true or false.
        ConfigError: it is neither a text nor a number nor a list of them.
    """
    column, value = fields.first(*columns)
    return _as_answer(fields, column, value)


def _as_answer(fields: Fields, column: str, value: object) -> str | list[str]:
    if is_absent(value):
        raise Unusable("no answer")
    truth = as_truth(value)
    match truth:
        case str():
            return truth
        case [str(), *_]:
            return truth  # type: ignore[return-value]
    if isinstance(value, bool) or (isinstance(value, list) and any(map(is_absent, value))):
        raise Unusable("no plain answer")
    fields.refuse(column, "an answer, as a text, a number or a list of them")


def gsm8k(fields: Fields) -> Row:
    """A worked solution with the answer on its last line: ``#### 1,200``."""
    if gsm8k_answer(fields.text("answer")) is None:
        raise Unusable("no answer")
    return fields.row(fields.problem("question"), answer_in(fields, "answer"))


def boxed_solution(fields: Fields) -> Row:
    r"""A solution with the answer in its last ``\boxed{}``."""
    solution = _BOX_OF_TOKEN.sub(_with_braces, fields.text("solution"))
    answer = boxed_answer(solution)
    if answer is None:
        raise Unusable("no answer")
    return fields.row(fields.problem(*PROBLEM), answer)


def _with_braces(box: re.Match[str]) -> str:
    return rf"\boxed{{{box[1].strip()}}}" if box[1] else r"\boxed"


def olympiadbench(fields: Fields) -> Row:
    """A question, sometimes with a context before it, and a list of one answer.

    Several values are one text with commas; the maths reward knows them by the name of the source,
    which must hold ``olympiad``.
    """
    answer = answer_in(fields, "final_answer", "answer")
    parts = [fields.optional_text("context"), fields.problem("question", "problem")]
    if isinstance(answer, list):  # of one; in a longer one all are asked for, not any
        answer = ",".join(answer)
    return fields.row("\n".join(part for part in parts if part.strip()), answer)


def numina(fields: Fields) -> Row:
    """NuminaMath-1.5 and what was made from it, whose records are labelled by kind and quality."""
    kind = fields.optional_text("question_type")
    if kind == "proof" or fields.text("answer").strip() == "proof":
        raise Unusable("proof")
    if kind == "MCQ":
        raise Unusable("multiple choice")
    for column in ("problem_is_valid", "solution_is_valid"):
        if fields.optional_text(column) not in ("", "Yes"):
            raise Unusable("marked as not valid")
    return ProblemAndAnswer()(fields)


def verl_math(fields: Fields) -> Row:
    """A verl row freed of its instructions, those of a system message too: the problem alone, for a
    template to give it others.

    Raises:
        ConfigError: besides what all shapes raise, for a chat of several turns.
    """
    prompt, remark = prompt_of(fields.file, fields.number, fields.record), ""
    if not isinstance(prompt, str):
        turns = [m["content"] for m in prompt if m["role"] != "system"]
        remark = "without its system message" if len(turns) < len(prompt) else ""
        if len(turns) != 1:
            fields.refuse("prompt", "one turn of the user", f"It has {len(turns)} turns.")
        (prompt,) = turns
    column, value = find_truth(fields.file, fields.number, fields.record)
    problem = _INSTRUCTIONS.sub("", prompt.strip()).strip()
    if not problem:
        raise Unusable("no problem")
    return replace(fields.row(problem, _as_answer(fields, column, value)), remark=remark)
