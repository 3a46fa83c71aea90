import subprocess
import sys

import pytest
from fake_model import write_tokenizer

from archer.config.keys import DataConfig
from archer.data.rows import Row, read_rows
from archer.errors import ConfigError
from archer.models.tokenizer import load_tokenizer
from archer.prompts import PromptLoader, dataset_files, load_prompts
from archer.seeds import derive_seed
from archer.types import Prompt

CHAT = DataConfig(name="sums", prompt_template="{problem}\nBox it.")
PLAIN = DataConfig(name="sums", prompt_template="{problem}=?\n", chat_template=False)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def row(number, prompt, truth="5"):
    return Row(number, prompt, truth, "sums")


def ids(text):
    """Hand encoding of the fake tokenizer: newline is 4, space 5, ..."""
    return [4 if c == "\n" else ord(c) - 32 + 5 for c in text]


def test_a_plain_prompt_is_the_problem_in_its_template(tokenizer):
    (prompt,) = load_prompts("data.train", [row(1, "2+3")], PLAIN, tokenizer).prompts
    assert prompt.text == "2+3=?\n"
    assert prompt.tokens.tolist() == ids("2+3=?\n") and prompt.tokens.dtype == "int32"


def test_braces_in_a_problem_are_left_alone(tokenizer):
    (prompt,) = load_prompts("data.train", [row(1, r"\frac{1}{x}")], PLAIN, tokenizer).prompts
    assert prompt.text == r"\frac{1}{x}" + "=?\n"


def test_a_problem_becomes_the_user_turn_of_a_chat(tokenizer):
    (prompt,) = load_prompts("data.train", [row(1, "2+3")], CHAT, tokenizer).prompts
    assert prompt.text == "<bos><user>2+3\nBox it.<assistant>"
    bos = 1  # once: written by the template, not added again by the tokenizer
    assert prompt.tokens.tolist() == [bos, *ids("<user>2+3\nBox it.<assistant>")]


def set_data(**keys):
    source = {"s": {"files": ["f"]}}
    sets = {
        "learnt": {"role": "train", "sources": source, "template": "Learn {problem}"},
        "held_out": {"role": "eval", "sources": source, "template": "Solve {problem}"},
        "bare": {"role": "eval", "sources": source},
    }
    return DataConfig(name="sums", sets=sets, eval={"own": "f"}, chat_template=False, **keys)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("data.train", "Learn 2+3"),
        ("data.eval.held_out", "Solve 2+3"),
        ("data.sets.held_out", "Solve 2+3"),
        ("data.eval.bare", "2+3"),
        ("data.eval.own", "2+3"),
        ("data.eval.learnt", "Learn 2+3"),
    ],
)
def test_a_prepared_problem_is_put_in_the_template_of_its_set(tokenizer, key, text):
    (prompt,) = load_prompts(key, [row(1, "2+3")], set_data(), tokenizer).prompts
    assert prompt.text == text
    replaced = set_data(prompt_template="{problem}=")
    (prompt,) = load_prompts(key, [row(1, "2+3")], replaced, tokenizer).prompts
    assert prompt.text == "2+3="


def test_chat_messages_keep_their_turns_and_ignore_the_template(tokenizer):
    turns = ("user", "2+3"), ("assistant", "5"), ("user", "+1?")
    messages = tuple({"role": role, "content": text} for role, text in turns)
    (prompt,) = load_prompts("data.train", [row(1, messages)], CHAT, tokenizer).prompts
    assert prompt.text == "<bos><user>2+3<assistant>5<user>+1?<assistant>"


def test_the_chat_template_gets_its_variables(tmp_path):
    template = "{{ messages[0].content }}{% if not thinks | default(true) %}<done>{% endif %}"
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, template))
    silent = CHAT.model_copy(update={"chat_template_args": {"thinks": False}})
    (prompt,) = load_prompts("data.train", [row(1, "2+3")], silent, tokenizer).prompts
    assert prompt.text == "2+3\nBox it.<done>"
    (prompt,) = load_prompts("data.train", [row(1, "2+3")], CHAT, tokenizer).prompts
    assert prompt.text == "2+3\nBox it."


def test_long_prompts_are_dropped_and_counted(tokenizer):
    data = PLAIN.model_copy(update={"max_prompt_tokens": 6})
    rows = [row(1, "2+3"), row(2, "12+3"), row(3, "4+5")]  # 6, 7 and 6 tokens
    loaded = load_prompts("data.train", rows, data, tokenizer)
    assert [p.id for p in loaded.prompts] == ["1", "3"]
    assert loaded.dropped == {"too_long": 1}


def test_held_out_prompts_carry_the_name_of_their_set(tokenizer):
    (prompt,) = load_prompts("data.eval.aime24", [row(7, "2+3")], PLAIN, tokenizer).prompts
    assert prompt.id == "aime24-7"


def test_nothing_left_says_how_long_the_shortest_is(tokenizer):
    data = PLAIN.model_copy(update={"max_prompt_tokens": 3})
    with pytest.raises(ConfigError, match=r"data.max_prompt_tokens=3.*shortest has 6 tokens"):
        load_prompts("data.train", [row(1, "2+3")], data, tokenizer)


def test_chat_messages_without_the_chat_template_are_refused(tokenizer):
    messages = ({"role": "user", "content": "2+3"},)
    with pytest.raises(ConfigError, match=r"chat_template=False.*row 1 of data.train.*Set data"):
        load_prompts("data.train", [row(1, messages)], PLAIN, tokenizer)


def test_messages_that_the_template_refuses_are_named(tokenizer):
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3"})
    with pytest.raises(ConfigError, match=r"data.train.*Row 4.*no system role"):
        load_prompts("data.train", [row(4, messages)], CHAT, tokenizer)


def test_decoding_gives_the_text_without_special_tokens(tokenizer):
    (tokens,) = tokenizer.encode(["a , b .\n"], add_special_tokens=False)
    assert tokenizer.decode([1, *tokens, 2]) == "a , b .\n"


def test_the_embedded_task_writes_its_files_once(tmp_path):
    data = DataConfig(name="sums", task="arithmetic", train_size=20, eval_size=5)
    files = dataset_files(data, tmp_path)
    assert sorted(files) == ["data.eval.arithmetic", "data.train"]
    assert len(list(read_rows(files["data.train"], "data.train"))) == 20
    assert dataset_files(data, tmp_path) == files
    assert dataset_files(data.model_copy(update={"train_size": 21}), tmp_path) != files


def loader_of(count, seed=0):
    prompts = [Prompt(str(i), None, "", "", "") for i in range(count)]
    return PromptLoader(prompts, seed)


def take(loader, count):
    return [loader.next().id for _ in range(count)]


def test_every_epoch_visits_every_prompt_once_in_an_order_of_its_own():
    ids = take(loader_of(20), 40)
    first, second = ids[:20], ids[20:]
    assert sorted(first) == sorted(f"0-{i}" for i in range(20))
    assert sorted(second) == sorted(f"1-{i}" for i in range(20))
    assert [i[2:] for i in first] != [i[2:] for i in second]


def test_the_order_depends_on_the_seed_alone():
    assert take(loader_of(20, seed=3), 45) == take(loader_of(20, seed=3), 45)
    assert take(loader_of(20, seed=3), 20) != take(loader_of(20, seed=4), 20)


@pytest.mark.parametrize("position", [0, 7, 20, 33])
def test_a_loader_resumed_at_a_position_goes_on_with_the_same_prompts(position):
    whole = take(loader_of(20), 60)
    resumed = loader_of(20)
    resumed.rewind(position)
    assert take(resumed, 60 - position) == whole[position:]
    assert resumed.position == 60
    resumed.rewind(position)  # back over an epoch's border
    assert take(resumed, 1) == [whole[position]]


def test_seeds_differ_by_every_part_and_fit_64_bits():
    uses = [(0, "a", "bc"), (0, "ab", "c"), (0, "a", 1), (0, "a", "1"), (1, "a", 1), (0, 1, "a")]
    seeds = [derive_seed(*use) for use in uses]
    assert len(set(seeds)) == len(uses)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "rollout", 3, "0-17", 1) == 6319474749625622981


def test_the_driver_reads_prompts_without_torch(tmp_path):
    write_tokenizer(tmp_path)
    code = f"""
import sys
from pathlib import Path
from archer.preflight import check_inputs
from archer.models.tokenizer import load_tokenizer
tokenizer = load_tokenizer(Path({str(tmp_path)!r}))
text = tokenizer.render([{{"role": "user", "content": "hi"}}])
tokenizer.decode(tokenizer.encode([text], add_special_tokens=False)[0])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
