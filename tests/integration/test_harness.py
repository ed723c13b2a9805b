"""lm-eval through this project's model object, against plain transformers, against lm-eval itself, and by batches."""

import copy

import pytest
import torch
from benchmarked import SUBJECTS, data_in, lm_eval
from conftest import real_model, small_model
from tiny_adapters import MAKERS, moved

import aligner_probe as ap
from aligner_probe.errors import AlignerProbeError
from aligner_probe.harness import local
from aligner_probe.harness.asking import ask
from aligner_probe.harness.library import Asking, find_tasks, language_model, prepare
from aligner_probe.harness.run import all_answered, prompts_of
from aligner_probe.tasks.tokenizing import prompt_ids

#: Tokens of an answer to a sum: a small model of stories gives none that is right, and says it in any number of tokens.
SHORT = 12


@pytest.fixture(autouse=True)
def _needs_lm_eval(monkeypatch):
    lm_eval()
    short = local.GSM8K | {"generation_kwargs": local.GSM8K["generation_kwargs"] | {"max_gen_toks": SHORT}}
    monkeypatch.setattr(local, "GSM8K", short)


@pytest.fixture(scope="module")
def stories():
    return ap.load_model(small_model("stories260K"))


@pytest.fixture
def folder(tmp_path):
    return data_in(tmp_path / "data")


def asked(model, folder, name, adapter=None, *, batch_size=4, asking=None, n_checked=0):
    asking = asking or Asking(shots=1)
    lm = language_model(model, batch_size=batch_size)
    benchmark = prepare(name, find_tasks(name, folder, asking.shots), lm, asking)
    return ask(lm, model, benchmark, adapter, seed=asking.seed, n_checked=n_checked)


def test_our_object_equals_plain_transformers_on_the_merged_aligner_item_by_item(stories, folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = small_model("stories260K")
    adapter = moved(ap.Aligner(stories, n_tokens=1, start_layer=1, seed=0))
    ap.export_adapter(adapter, "merged", tmp_path / "merged", model=base)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    choices, _, _, _ = asked(stories, folder, "mmlu", adapter)
    for item in choices:
        n = len(tokenizer(item.prompt)["input_ids"])
        likelihoods = []
        for letter in "ABCD":
            ids = torch.tensor([tokenizer(f"{item.prompt} {letter}")["input_ids"]])
            with torch.no_grad():
                logs = merged(ids).logits[0].log_softmax(-1)
            likelihoods.append(sum(float(logs[i - 1, ids[0, i]]) for i in range(n, ids.shape[1])))
        assert item.said == pytest.approx(likelihoods, abs=1e-3)
        assert item.answer == "ABCD"[max(range(4), key=likelihoods.__getitem__)]
        assert item.scores == {"acc": float(item.answer == "B")}
    texts, _, _, _ = asked(stories, folder, "gsm8k", adapter)
    for item in texts:
        ids = torch.tensor([tokenizer(item.prompt)["input_ids"]])
        new = merged.generate(ids, max_new_tokens=SHORT, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert item.said == [tokenizer.decode(new, skip_special_tokens=True).split("Question:")[0]]
    plain, _, _, _ = asked(stories, folder, "gsm8k")
    assert [item.said for item in plain] != [item.said for item in texts]


def test_scores_and_prompts_are_those_of_lm_eval_itself(stories, folder):
    from lm_eval.evaluator import evaluate

    lm = language_model(stories, batch_size=4)
    for name in ("mmlu", "gsm8k"):
        items, metrics, _, _ = asked(stories, folder, name, asking=Asking(shots=2, seed=7))
        tasks = find_tasks(name, folder, 2)
        for task in tasks:
            task.set_config(key="num_fewshot", value=2)
            task.set_fewshot_seed(seed=7)
        theirs = evaluate(lm=lm, task_dict={"tasks": {one.task_name: one for one in tasks}}, bootstrap_iters=0)
        for metric in metrics:
            assert theirs["results"][metric.task][f"{metric.metric},{metric.filter}"] == metric.value
        samples = {(task, one["doc_id"], one["filter"]): one for task, its in theirs["samples"].items() for one in its}
        assert len(samples) == len(items)
        for item in items:
            one = samples[item.task, item.doc_id, item.filter]
            assert item.prompt == one["arguments"][0][0]
            assert item.scores == {metric: one[metric] for metric in item.scores}
            if name == "gsm8k":
                assert (item.said, item.answer) == (one["resps"][0], one["filtered_resps"][0])


def test_the_tasks_of_a_folder_are_those_of_lm_eval():
    """Prompts, filters and metrics, by lm-eval's own files."""
    from pathlib import Path

    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    own = Path(lm_eval.tasks.__file__).parent
    manager = TaskManager(include_defaults=False, include_path=[str(own / "gsm8k"), str(own / "mmlu" / "default")])
    configs = {name: manager.task_index[name].yaml_path for name in ("gsm8k", "mmlu_astronomy")}
    from lm_eval.tasks._yaml_loader import load_yaml

    theirs = {name: load_yaml(file) for name, file in configs.items()}
    left_out = {"dataset_path", "dataset_name", "tag", "task_alias", "include", "description"}
    ours = {
        "gsm8k": {**local.GSM8K, "generation_kwargs": dict(local.GSM8K["generation_kwargs"])},
        "mmlu_astronomy": local.MMLU | {"task": "mmlu_astronomy"},
    }
    del ours["gsm8k"]["generation_kwargs"]["max_gen_toks"]  # of these tests
    for name, config in theirs.items():
        assert {key: value for key, value in config.items() if key not in left_out} == ours[name]
    description = "The following are multiple choice questions (with answers) about astronomy.\n\n"
    assert theirs["mmlu_astronomy"]["description"] == description


def test_an_mmlu_prompt_is_the_published_one(stories, folder):
    items, _, _, _ = asked(stories, folder, "mmlu")
    first = next(item for item in items if item.task == f"mmlu_{SUBJECTS[0]}" and item.doc_id == 1)
    assert first.prompt == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "abstract_algebra dev 0: which is 0?\nA. 1\nB. 0\nC. 2\nD. 3\nAnswer: B\n\n"
        "abstract_algebra test 1: which is 1?\nA. 2\nB. 1\nC. 3\nD. 4\nAnswer:"
    )
    assert first.target == "B"


@pytest.mark.parametrize("method", sorted(MAKERS))
def test_every_method_answers_as_it_does_in_generate(stories, folder, method):
    """Also those that take up positions of the context, or keys and values of the cache."""
    adapter = moved(MAKERS[method](stories))
    items, _, _, _ = asked(stories, folder, "gsm8k", adapter)
    strict = [item for item in items if item.filter == "strict-match"]
    with adapter.attached():
        prompts = [item.prompt for item in strict]
        theirs = ap.generate(stories, prompts, max_new_tokens=SHORT, stop=["Question:", "<|im_end|>"])
    assert [item.said for item in strict] == [[text] for text in theirs]


@pytest.mark.parametrize("name", ["mmlu", "gsm8k"])
def test_batches_of_1_and_16_give_the_same_choices_in_float32(stories, folder, name):
    adapter = moved(ap.Aligner(stories, n_tokens=2, start_layer=1, seed=0))
    alone, _, check, _ = asked(stories, folder, name, adapter, batch_size=1, n_checked=8)
    together, _, other, _ = asked(stories, folder, name, adapter, batch_size=16, n_checked=8)
    assert [item.answer for item in alone] == [item.answer for item in together]
    assert [item.scores for item in alone] == [item.scores for item in together]
    assert (check.n, check.batch_size, check.other_batch_size, check.answers, check.scores) == (8, 1, 16, 0, 0)
    assert (other.n, other.batch_size, other.other_batch_size, other.answers) == (8, 16, 1, 0)


def test_flips_by_the_batch_size_are_counted(stories, folder, monkeypatch):
    """With a model object that answers otherwise in batches of one, three of four items flip."""
    lm = language_model(stories, batch_size=4)
    benchmark = prepare("mmlu", find_tasks("mmlu", folder, 0), lm, Asking(shots=0))

    def loglikelihood(requests, disable_tqdm=False):
        right = [one.doc_id != 0 and lm.batch_size == 1 for one in requests]
        return [
            (0.0 if one.arguments[1] == (" B" if flip else " A") else -1.0, True)
            for one, flip in zip(requests, right, strict=True)
        ]

    monkeypatch.setattr(lm, "loglikelihood", loglikelihood)
    items, metrics, check, _ = ask(lm, stories, benchmark, None, seed=0, n_checked=4)
    assert (check.n, check.answers, check.scores) == (4, 3, 3)
    # what is kept are the answers with the usual batch size
    assert {item.answer for item in items} == {"A"}
    assert [metric.value for metric in metrics] == [0.0, 0.0]
    assert [one.resps for one in benchmark.requests][:2] == [[(0.0, True)], [(-1.0, True)]]


def test_token_ids_are_those_of_training_and_the_tokenizer_stays_as_it_was(stories):
    text = "Question: who?\nAnswer:"
    before = copy.deepcopy(stories.tokenizer.special_tokens_map)
    pad = stories.tokenizer.pad_token
    lm = language_model(stories, batch_size=1, n_positions=10)
    assert lm.tok_encode(text) == prompt_ids(stories.tokenizer, [text])[0]
    assert lm.tok_encode(text)[0] == stories.tokenizer.bos_token_id
    assert lm.max_length == stories.cfg.n_ctx - 10
    assert (stories.tokenizer.special_tokens_map, stories.tokenizer.pad_token) == (before, pad)


def test_items_are_drawn_once_for_all_models_and_each_is_asked_once(stories, folder, tmp_path, monkeypatch):
    lm = language_model(stories, batch_size=4)
    asking = Asking(shots=1, limit=5, seed=3)
    benchmark = prepare("mmlu", find_tasks("mmlu", folder, 1), lm, asking)
    assert benchmark.n_items == 5
    assert benchmark.n_all == 8
    assert all(ids == sorted(ids) for ids in benchmark.doc_ids.values())
    again = prepare("mmlu", find_tasks("mmlu", folder, 1), lm, asking)
    other = prepare("mmlu", find_tasks("mmlu", folder, 1), lm, Asking(shots=1, limit=5, seed=4))
    assert prompts_of(again) == prompts_of(benchmark) != prompts_of(other)
    adapters = {"base": None, "aligner": moved(ap.Aligner(stories, n_tokens=1, start_layer=1, seed=0))}
    calls = []
    real = lm.loglikelihood

    def counted(requests, disable_tqdm=False):
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(requests, disable_tqdm=disable_tqdm)

    monkeypatch.setattr(lm, "loglikelihood", counted)

    def answer():
        return all_answered(lm, stories, [benchmark], adapters, tmp_path, seed=3, show_progress=False)["mmlu"]

    with pytest.raises(KeyboardInterrupt):
        answer()
    answered = answer()
    # the base model has answered before the interruption, and is not asked again
    assert calls == [20, 20, 20]
    assert [item.prompt for item in answered["base"].items] == [item.prompt for item in answered["aligner"].items]
    assert answer() == answered
    assert len(calls) == 3


def test_prompts_that_do_not_fit_are_counted_or_refused(stories, folder):
    lm = language_model(stories, batch_size=1, n_positions=stories.cfg.n_ctx - 60)
    tasks = find_tasks("mmlu", folder, 0)
    long = prepare("mmlu", tasks, lm, Asking(shots=0))
    n = sum(len(lm.tok_encode(one.args[0] + one.args[1])) > 61 for one in long.requests if one.idx == 0)
    assert long.n_cut == n > 0
    lm = language_model(stories, batch_size=1, n_positions=stories.cfg.n_ctx - SHORT)
    with pytest.raises(AlignerProbeError, match=f"up to {SHORT} tokens, and the context has room for {SHORT}"):
        prepare("gsm8k", find_tasks("gsm8k", folder, 0), lm, Asking(shots=0))


def test_what_cannot_be_asked_is_one_line(stories, folder):
    lm = language_model(stories, batch_size=1)
    tasks = find_tasks("gsm8k", folder, 0)
    with pytest.raises(AlignerProbeError, match="has no chat template; leave out --as-chat"):
        prepare("gsm8k", tasks, lm, Asking(shots=0, as_chat=True))
    [task] = find_tasks("gsm8k", folder, 1)
    with pytest.raises(AlignerProbeError, match=r"made no prompts for gsm8k .*--shots N"):
        prepare("gsm8k", [task], lm, Asking(shots=9))


def test_chat_prompts_are_the_templates_own(folder):
    """Examples are earlier turns, and the system message is the first."""
    model = ap.load_model(small_model("stories260K"))
    ap.set_chat_template(
        model,
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
    )
    asking = Asking(shots=1, as_chat=True, system="Be brief.")
    items, _, _, _ = asked(model, folder, "mmlu", asking=asking)
    prompt = items[0].prompt
    assert prompt.startswith("[system]Be brief.\n\nThe following are")
    assert prompt.count("[user]") == 2
    assert "[assistant]B\n[user]abstract_algebra test 0" in prompt
    assert prompt.endswith("Answer:\n[assistant]")


@pytest.mark.slow
def test_tasks_of_the_hub_that_are_not_there_are_one_line():
    """Slow, because lm-eval reads thousands of files to find a task. No test asks a network."""
    with pytest.raises(AlignerProbeError, match=r"no task 'gsm8kk'; did you mean gsm8k\? .*`lm-eval ls tasks`"):
        find_tasks("gsm8kk", None, 1)
    with pytest.raises(AlignerProbeError, match=r"data of lm-eval's task gsm8k cannot be read .*--data FOLDER"):
        find_tasks("gsm8k", None, 1)


@pytest.mark.slow
def test_flips_in_bfloat16_on_a_real_chat_model_are_counted(folder):
    model = ap.load_model(real_model(), dtype=torch.bfloat16)
    adapter = moved(ap.Aligner(model, n_tokens=1, start_layer=2, seed=0))
    _, _, check, _ = asked(model, folder, "mmlu", adapter, batch_size=16, n_checked=8)
    assert check.n == 8
    assert 0 <= check.scores <= check.answers <= 8
