"""The front door with what people naturally try: it does what is meant, or says in one line what to call."""

import functools
import inspect
import math

import micro
import numpy as np
import pandas as pd
import pytest
import torch
from builders import checkpoint
from learning import model, task
from tiny import bridge

import aligner_probe as ap
from aligner_probe.adapters import Adapter
from aligner_probe.arguments import ArgumentError
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Task

#: Classes that users read from, derive from or pass on, and do not make by a call whose names are checked.
NOT_CALLED = (
    *("Adapter", "AdapterConfig", "AlignerProbeError", "AlignerProbeWarning", "Arm", "Example"),
    *("LayeredConfig", "Message", "PrefixCheckpoint", "ProbeResult", "Recipe", "Run", "Task"),
)
ROWS = [{"prompt": f"say {letter} ", "completion": letter * 3} for letter in "abcdefgh"]


@pytest.fixture(scope="module")
def pair():
    return checkpoint(seed=0), checkpoint(seed=1)


def test_tensors_and_arrays_are_compared_as_checkpoints_are(pair):
    a, b = pair
    whole = ap.compare_numbers(a, b)
    for first, second in (
        (a.prefix, b.prefix),
        (torch.nn.Parameter(a.prefix.float()), b.prefix.float()),
        (a.prefix[0], b.prefix[0]),
        (a.prefix.float().numpy(), b.prefix.double().numpy()),
        (a, b.prefix),
    ):
        found = ap.compare_numbers(first, second)
        assert (found.n_equal, found.prefix.n) == (whole.n_equal, whole.prefix.n)
        assert found.gates is None
        assert found.equal_per_token == whole.equal_per_token
    assert ap.compare_numbers([a, b]).n_equal == whole.n_equal
    assert ap.compare_numbers(a.gates, a.gates).share_equal == 1
    with pytest.raises(ArgumentError, match=r"compare_numbers\(b=\) was given numbers of shape \(3,\) in int64"):
        ap.compare_numbers(a.prefix, torch.tensor([1, 2, 3]))


def test_a_list_of_checkpoints_has_a_list_of_gate_statistics(pair):
    each = [ap.gate_statistics(one, resamples=50) for one in pair]
    as_values = dict(enumerate(pair)).values()
    for several in (list(pair), pair, ap.Collection(pair), (one for one in pair), as_values):
        found = ap.gate_statistics(several, resamples=50)
        assert [one.spearman for one in found] == [one.spearman for one in each]
    with pytest.raises(ArgumentError, match=r"gate_statistics\(checkpoint=\) was given 3; expected a checkpoint"):
        ap.gate_statistics([pair[0], 3])


def test_figures_of_a_list_of_one_and_of_a_path(pair, tmp_path):
    whole = ap.draw("fig07", ap.Collection(pair))
    assert ap.draw("fig07", list(pair)).frame.equals(whole.frame)
    assert ap.draw(name="fig07", collection=pair).frame.equals(whole.frame)
    one = ap.draw("fig07", ap.Collection([pair[0]])).frame
    assert ap.draw("fig07", pair[0]).frame.equals(one)
    assert ap.Collection(pair[0]).checkpoints == ap.Collection([pair[0]]).checkpoints
    folder = ap.save_checkpoint(pair[0], tmp_path / "a")
    assert ap.draw("fig07", ap.scan_checkpoints(tmp_path)).frame.shape == one.shape
    assert ap.draw("fig07", [folder]).frame.shape == ap.draw("fig07", str(folder)).frame.shape == one.shape
    with pytest.raises(ArgumentError, match=r"draw\(name=\) was given a list of 2 .*draw\(\"fig07\""):
        ap.draw(list(pair), "fig07")
    with pytest.raises(ap.AlignerProbeError, match="did you mean fig07"):
        ap.draw("fg07", pair)


def test_an_adapter_is_a_checkpoint(tmp_path):
    base = bridge("llama_gqa")
    first, second = ap.Aligner(base, 2, 1, seed=0), ap.Aligner(base, 2, 1, seed=1)
    saved = ap.save_adapter(first, tmp_path / "a")
    assert ap.compare_checkpoints(first, saved).equality.share_equal == 1
    assert ap.compare_checkpoints([first, second]).equality.share_equal < 1
    assert ap.gate_statistics(first).gates.shape == (3, 4)
    assert ap.embed_tokens([first, second]).n == 4
    with pytest.raises(ArgumentError, match="lora has no prefix tokens"):
        ap.compare_checkpoints(first, ap.LoRA(base))
    with pytest.raises(ArgumentError, match=r"ap.save_adapter\(adapter, folder\)"):
        ap.save_checkpoint(first, tmp_path / "b")
    with pytest.raises(ArgumentError, match=r"ap.save_checkpoint saves this"):
        ap.save_adapter(checkpoint(), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_rows_in_memory_are_read_as_a_file_of_them(tmp_path):
    import json

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    read = ap.load_task(file)
    for given in (ROWS, tuple(ROWS), iter(ROWS), pd.DataFrame(ROWS), list(read.examples)):
        assert ap.load_task(given).examples == read.examples
    assert ap.load_task(read) is read
    found = ap.load_task(ROWS, name="mine")
    assert (found.name, found.format, found.source) == ("mine", read.format, "")
    assert [example.line for example in found.examples] == list(range(1, 9))
    # What a frame has no value for is a field that the row does not have; numpy's numbers are numbers.
    frame = pd.DataFrame([ROWS[0] | {"group": "a"}, ROWS[1]])
    assert [example.group for example in ap.load_task(frame).examples] == ["a", None]
    assert ap.load_task([ROWS[0] | {"group": np.int64(3)}]).examples == ap.load_task([ROWS[0] | {"group": 3}]).examples


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "rows in memory: is empty"),
        ([ROWS[0], {"prompt": "x"}], "rows in memory, line 2"),
        ([{"prompt": "x", "completion": ""}], "rows in memory, line 1: the completion is empty"),
        ([{"prompt": "x", "completion": object()}], "line 1: 'completion' is a value of type object"),
        ([{"prompt": "x", "completion": float("nan")}], "line 1: 'completion' is nan"),
        (["one text"], r"load_task\(path=\) was given a list of 1 \(str\)"),
        ({"prompt": ["x"], "completion": ["y"]}, r"load_task\(path=\) was given a value of type dict"),
        (3, r"was given 3; expected a task"),
    ],
)
def test_what_is_no_task(given, says):
    with pytest.raises(ap.AlignerProbeError, match=says):
        ap.load_task(given)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: ap.Aligner(m, n_token=1), r"Aligner\(\) has no option 'n_token'; did you mean n_tokens\?"),
        (lambda m: ap.Aligner(m, num_virtual_tokens=1), "did you mean n_tokens"),
        (lambda m: ap.LLaMAAdapter(m, gate_fn="tanh"), "has no option 'gate_fn'; did you mean gate_function"),
        (lambda m: ap.LoRA(m, rank=4), r"LoRA\(\) has no option 'rank'; did you mean r\?"),
        (lambda m: ap.LoRA(m, lora_alpha=4), "did you mean alpha"),
        (lambda m: ap.PromptTuning(m, tokens=3), "did you mean n_tokens"),
        (lambda m: ap.PrefixTuning(m, n_token=3), "did you mean n_tokens"),
        (lambda m: ap.OutputBias(m, subspaces=3), "did you mean subspace"),
        (lambda m: ap.FullFineTune(m, sed=3), "did you mean seed"),
        (lambda m: ap.Aligner(), r"Aligner\(\): missing a required argument: 'model'; call Aligner\(model, n_tokens=1"),
        (lambda m: ap.Aligner(3), r"Aligner\(model=\) was given 3; expected a base model: ap.load_model"),
        (lambda m: ap.Aligner(m, 1, n_tokens=1), "multiple values for argument 'n_tokens'"),
        (lambda m: ap.recipe(learning_rate=1.0), "no option 'learning_rate'; did you mean lr"),
        (lambda m: ap.recipe("corect"), "no recipe is named 'corect'; did you mean corrected"),
        (lambda m: ap.Training(adaptor=None), "Training.*no option 'adaptor'; did you mean adapter"),
        (lambda m: ap.fit(m, ap.LoRA(m), task(), resum=True), "fit.*did you mean resume"),
        (lambda m: ap.fit(m, ap.LoRA(m), task(), eval_dataset=task()), "did you mean validation"),
        (lambda m: ap.fit(ap.LoRA(m), m, task()), r"fit\(model=\) .* adapter.model, inside `with adapter.attached"),
        (lambda m: ap.fit(m, task(), ap.LoRA(m)), r"fit\(adapter=\) was given a value of type Task"),
        (lambda m: ap.fit(m, ap.LoRA(m), task().split(0.2, seed=0)), "a tuple of 2 .*train, held_out = task.split"),
        (lambda m: ap.generate(m, 3), r"generate\(prompts=\) was given 3; expected a list of texts"),
        (lambda m: ap.generate(ap.LoRA(m), ["a"]), "inside `with adapter.attached"),
        (lambda m: ap.score_task(m, 3), r"score_task\(task=\) was given 3; expected a task"),
        (lambda m: ap.score_task(m, task(), scorr="exact"), "did you mean scorer"),
        (
            lambda m: ap.probe_task(m, task(), budgt="quick"),
            r"probe_task\(\) has no option 'budgt'; did you mean budget",
        ),
        (lambda m: ap.probe_task(m, None), r"probe_task\(task=\) was given None"),
        (lambda m: ap.export_adapter(ap.Aligner(m, 1, 1), "merge", "out"), "named 'merge'; did you mean merged"),
        (lambda m: ap.export_adapter(m, "native", "out"), r"export_adapter\(source=\) .*ap.load_adapter"),
        (lambda m: ap.load_checkpoint(["a", "b"]), r"ap.load_checkpoint\(path\) for path in paths"),
        (lambda m: ap.load_model(3), r"load_model\(name_or_path=\) was given 3; expected \"microworld\""),
        (lambda m: ap.scan_checkpoints(3), r"scan_checkpoints\(folder=\) was given 3"),
        (
            lambda m: ap.embed_tokens(checkpoint(), checkpoint()),
            r"too many .*; call embed_tokens\(checkpoints, \*, method",
        ),
        (lambda m: ap.gate_statistics(), r"missing .*; call gate_statistics\(checkpoint, \*, seed=0"),
        (lambda m: ap.centre_test(checkpoint(), 3), r"centre_test\(many=\) was given 3"),
        (lambda m: ap.parameter_table(m), r"parameter_table\(base=\) .* expected a base's sizes"),
        (lambda m: ap.list_published("alpaca"), "too many positional arguments"),
        (lambda m: ap.open_gate(m, task(), n_token=1), "did you mean n_tokens"),
    ],
)
def test_one_line_says_what_to_call(call, says):
    with pytest.raises(ap.AlignerProbeError, match=says) as caught:
        call(model())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_every_function_of_the_front_door_checks_its_names():
    checked = 0
    for name in ap.__all__:
        found = getattr(ap, name)
        if name in NOT_CALLED:
            continue
        with pytest.raises(ap.AlignerProbeError, match=f"{name}.* has no option 'nonsense_'|{name}.*missing"):
            found(nonsense_=1)
        checked += 1
        made = found if inspect.isclass(found) and issubclass(found, Adapter) and found is not ap.AdapterPool else None
        assert made is None or "model" in inspect.signature(made).parameters
    assert checked > 25


def test_one_prompt_is_a_list_of_one():
    base = ap.load_model(micro.base())
    prompts = ["what is the pet of", "gold"]
    both = ap.generate(base, prompts, max_new_tokens=3)
    assert ap.generate(base, prompts[0], max_new_tokens=3) == both[:1]
    for given in (dict(zip("ab", prompts, strict=True)).values(), pd.Series(prompts), np.array(prompts), iter(prompts)):
        assert ap.generate(base, given, max_new_tokens=3) == both
    assert ap.generate(base, Task("t", "sft", tuple(Example(p, "x") for p in prompts)), max_new_tokens=3) == both
    assert ap.generate(str(micro.base()), tuple(prompts), max_new_tokens=3, stop="\n") == both
    rows = [{"prompt": prompt, "completion": " gold"} for prompt in prompts]
    scores = ap.score_task(base, rows, "exact")
    assert scores.prompts == tuple(prompts)
    assert ap.guess_scorer(iter(rows)) == ap.guess_scorer(ap.load_task(rows))


def test_targets_by_other_libraries_names():
    base = bridge("llama_gqa")
    for given in (("q", "v"), ["q_proj", "v_proj"], "q,v", "q_proj, v_proj"):
        assert ap.LoRA(base, targets=given).config.targets == ("q", "v")
    for given in ("all-linear", ("all-linear",), "q,k,v,o,gate,up,down", ["q_proj", *"kvo", "gate", "up_proj", "down"]):
        assert ap.LoRA(base, targets=given).config.targets == ("q", "k", "v", "o", "gate", "up", "down")


def test_a_run_stands_for_its_adapter(tmp_path):
    base = model()
    run = ap.fit(base, ap.LoRA(base, 2), ROWS, recipe=ap.recipe(steps=1, batch_size=4), show_progress=False)
    assert ap.save_adapter(run, tmp_path / "a").is_dir()
    assert ap.export_adapter(run, "peft", tmp_path / "b").path.exists()


def test_a_named_task_is_probed_with_its_test_and_kind(monkeypatch):
    from aligner_probe.probing import probe
    from aligner_probe.probing.inputs import load_parts

    seen = {}

    @functools.wraps(probe.new_probe)
    def stop(base, task, **options):
        seen.update(options, base=base, task=task)
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "new_probe", stop)
    given = load_parts("panel:style_pirate")
    with pytest.raises(KeyboardInterrupt):
        ap.probe_task("microworld", "panel:style_pirate")
    assert (seen["base"], seen["task"], seen["test"], seen["kind"]) == (
        "microworld",
        given.train,
        given.test,
        given.kind,
    )
    with pytest.raises(KeyboardInterrupt):
        ap.probe_task("microworld", given.train.source, kind="memory")
    assert seen["kind"] == "memory"


@pytest.fixture(scope="module")
def base():
    return model()


# ---- plain values


@pytest.mark.parametrize("value", ["8", 1.5, None, True, [1]])
def test_a_number_of_another_type_is_refused_by_its_name(base, value):
    for make, name in ((ap.Aligner, "n_tokens"), (ap.PromptTuning, "n_tokens"), (ap.LoRA, "r"), (ap.LoRA, "seed")):
        with pytest.raises(ArgumentError, match=rf"{make.__name__}\({name}=\) was given .*; expected a whole number"):
            make(base, **{name: value})
    with pytest.raises(ArgumentError, match=r"generate\(max_new_tokens=\) was given"):
        ap.generate(base, "a", max_new_tokens=value)
    if value is not None:
        with pytest.raises(ArgumentError, match=r"recipe\(steps=\) was given .*; expected a whole number or None"):
            ap.recipe(steps=value)


def test_numbers_and_paths_of_other_libraries_are_plain_values(base):
    assert ap.Aligner(base, n_tokens=np.int64(2), start_layer=1, seed=np.int32(3)).config.n_tokens == 2
    assert ap.recipe(lr=np.float32(0.5), steps=np.int64(3)).steps == 3
    assert ap.recipe(lr=1.0, epochs=2.0, betas=(0.9, 0.95)).betas == (0.9, 0.95)
    assert ap.LoRA(base, alpha=2).config.alpha == 2


def test_texts_paths_and_data_types_are_checked_too(base):
    for call, said in (
        (lambda: ap.Aligner(base, dtype="float16"), r"Aligner\(dtype=\) was given 'float16'; .*torch.float32"),
        (lambda: ap.recipe(lr="a"), r"recipe\(lr=\) was given 'a'; expected a number or None"),
        (lambda: ap.load_lora(5), r"load_lora\(folder=\) was given 5; expected a text or a path"),
        (lambda: ap.save_adapter(ap.LoRA(base), None), r"save_adapter\(folder=\) was given None"),
        (lambda: ap.load_task([], prompt_template=5), r"load_task\(prompt_template=\) was given 5"),
        (lambda: ap.download_published(5), r"download_published\(names=\) was given 5; expected a list of texts"),
        (lambda: ap.download_published("alpaca"), r"is named 'alpaca'"),
        (lambda: ap.OutputBias(base, start_layer=0, scale=math.inf), "scale inf; expected more than 0"),
    ):
        with pytest.raises(AlignerProbeError, match=said):
            call()


def test_what_is_no_recipe_scorer_callback_or_training_is_one_line(base):
    task = ap.load_task([{"prompt": "a", "completion": "b"}])
    adapter = ap.LoRA(base)
    for call, said in (
        (lambda: ap.fit(base, adapter, task, recipe="corrected"), r"fit\(recipe=\) .*ap.recipe\('corrected', lr="),
        (lambda: ap.fit(base, adapter, task, callbacks=[print]), r"fit\(callbacks=\) .*a list of callbacks"),
        (lambda: ap.fit_together(base, [adapter]), r"fit_together\(trainings=\) .*ap.Training\(adapter="),
        (lambda: ap.fit_together(base, 5), r"fit_together\(trainings=\) was given 5"),
        (lambda: ap.score_task(base, task, 5), r"score_task\(scorer=\) was given 5; expected a scorer, or the name"),
        (lambda: ap.score_task(base, task, lambda a, b: 1), r"score_task\(scorer=\) .*python:package.module:function"),
        (lambda: ap.open_gate(base, task, method="aligner"), r"open_gate\(method=\) .*ap.Aligner or ap.LLaMAAdapter"),
    ):
        with pytest.raises(ArgumentError, match=said):
            call()


@pytest.mark.parametrize(("given", "option"), [("lr", "lr"), ("learning_rate", "lr"), ("max_steps", "steps")])
def test_options_of_a_recipe_say_where_they_belong(base, given, option):
    task = ap.load_task([{"prompt": "a", "completion": "b"}])
    with pytest.raises(ArgumentError, match=rf"it belongs into recipe=ap.recipe\({option}=\.\.\.\)"):
        ap.fit(base, ap.LoRA(base), task, **{given: 1})
    with pytest.raises(ArgumentError, match=rf"it belongs into recipe=ap.recipe\({option}=\.\.\.\)"):
        ap.Training(adapter=ap.LoRA(base), task=task, **{given: 1})


def test_a_split_needs_no_seed():
    task = ap.load_task([{"prompt": str(i), "completion": "b"} for i in range(9)])
    assert task.split(2) == task.split(2, seed=0) != task.split(2, seed=1)
