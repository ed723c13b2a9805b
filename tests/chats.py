"""Small tokenizers with the chat templates that cover most models, and conversations for them."""

import functools
import importlib.util
from pathlib import Path

from tokenizer_bases import CORPUS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.task import Example, Preference, Task

#: ChatML as most models have it, and the format of Mistral-7B-Instruct. START and STOP stand where the marks of
#: transformers belong.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}START{{ message.content }}<|im_end|>{{ '\n' }}STOP"
    "{% else %}{{ message.content }}<|im_end|>{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %}START{{ message.content + eos_token }}STOP"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
#: By name: the special tokens, BOS, EOS, what ends a turn, whether the tokenizer puts its BOS before every text, and
#: whether the template takes a system message.
KINDS = {
    "chatml": (("<|im_start|>", "<|im_end|>", "<|endoftext|>"), None, "<|im_end|>", "<|im_end|>", True),
    "llama3": (
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        True,
    ),
    "gemma": (("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>", False),
    "mistral": (("<s>", "</s>"), "<s>", "</s>", "</s>", False),
    "phi3": (
        ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<s>",
        "<|endoftext|>",
        "<|end|>",
        True,
    ),
}
#: Kinds whose tokenizers put a BOS before every text, as their templates do.
PUT_BOS = ("llama3", "gemma", "mistral")


def template(kind: str, *, marked: bool = False) -> str:
    """The chat template of a kind; `marked` has {% generation %} around what the assistant says.

    Those of Llama 3, Gemma and Phi-3 are files of TRL, which has the published ones and its own with marks.
    """
    own = {"chatml": CHATML, "mistral": MISTRAL}
    if kind in own:
        start, stop = ("{% generation %}", "{% endgeneration %}") if marked else ("", "")
        return own[kind].replace("START", start).replace("STOP", stop)
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{kind}{'_training' * marked}.jinja").read_text()


@functools.cache
def _trained(like_sentencepiece: bool, special: tuple[str, ...]) -> str:
    """A BPE with merges, as JSON: of bytes, or of pieces that begin with a mark for the space before them."""
    inner = Tokenizer(models.BPE(unk_token=None, byte_fallback=like_sentencepiece))
    if like_sentencepiece:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = [chr(code) for code in range(32, 127)] + ["▁", "\n"]
        first = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet, first = pre_tokenizers.ByteLevel.alphabet(), list(special)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(CORPUS, trainer)
    return inner.to_str()


def tokenizer(kind: str, *, marked: bool = False) -> PreTrainedTokenizerFast:
    """A small tokenizer of a kind, with its special tokens and its chat template."""
    special, bos, eos, _, _ = KINDS[kind]
    inner = Tokenizer.from_str(_trained(kind == "mistral", special))
    inner.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in special])
    if kind in PUT_BOS:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=eos)
    made.chat_template = template(kind, marked=marked)
    return made


def takes_system(kind: str) -> bool:
    """Whether the template of a kind takes a system message."""
    return KINDS[kind][4]


def conversation(*contents: str, system: str | None = None) -> Conversation:
    """A conversation of these turns, the first one a user's."""
    roles = ("user", "assistant")
    turns = [Message(roles[index % 2], content) for index, content in enumerate(contents)]
    return Conversation((*([] if system is None else [Message("system", system)]), *turns))


def talks(kind: str) -> list[Conversation]:
    """Conversations of one turn and of several, with a system message where the template takes one."""
    systems = (None, "Answer in one word.") if takes_system(kind) else (None,)
    return [
        conversation(*turns, system=system)
        for system in systems
        for turns in (
            ("The capital of France?",),
            ("Who said it?", "Tom.", "And who was there?"),
            ("a", "b c", " 12 ", "34\n\nand more", "it's a cat?"),
        )
    ]


def task(kind: str) -> Task:
    """Those conversations with answers."""
    answers = ["Paris.", "There was a cat.", "Once\nupon"] * (1 + takes_system(kind))
    examples = tuple(
        Example(one, answer, line=index + 1)
        for index, (one, answer) in enumerate(zip(talks(kind), answers, strict=True))
    )
    return Task("talks", "sft", examples)


def pairs(kind: str) -> Task:
    """Those conversations with a better and a worse answer."""
    return Task(
        "pairs", "preference", tuple(Preference(one.prompt, one.completion, "No.") for one in task(kind).examples)
    )


def as_messages(one: Conversation, *answers: str) -> list[dict[str, str]]:
    """A conversation as transformers and TRL take it, with answers behind it."""
    rows = [{"role": message.role, "content": message.content} for message in one.messages]
    return rows + [{"role": "assistant", "content": answer} for answer in answers]


def plain(own: PreTrainedTokenizerFast):
    """A tiny random Llama for a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=len(own), max_position_embeddings=256, eos_token_id=own.eos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def folder_of(path: Path, kind: str) -> Path:
    """The same in a folder, with a kind's tokenizer beside it."""
    own = tokenizer(kind)
    plain(own).save_pretrained(path)
    own.save_pretrained(path)
    return path


def base(kind: str, *, ends_like: str = ""):
    """The same as a bridge.

    With `ends_like`, the base model says the token that ends a turn where it would have said this token.
    """
    import torch

    from aligner_probe.models import load_model
    from aligner_probe.tokenizers import attach_tokenizer

    own = tokenizer(kind)
    model = plain(own)
    if ends_like:
        rows = own.convert_tokens_to_ids([ends_like, KINDS[kind][3]])
        with torch.no_grad():
            model.lm_head.weight[rows] = model.lm_head.weight[rows[::-1]]
    return attach_tokenizer(load_model(model), own)


def plain_answer(model, messages: list[dict[str, str]], n: int, ends: set[int]) -> list[int]:
    """The new ids of transformers' own `apply_chat_template` and `generate`, with what ended them."""
    import torch

    given = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    options = {"max_new_tokens": n, "do_sample": False, "eos_token_id": sorted(ends), "pad_token_id": 0}
    with torch.no_grad():
        said = model.original_model.generate(**given, **options)
    return said[0, given["input_ids"].shape[1] :].tolist()
