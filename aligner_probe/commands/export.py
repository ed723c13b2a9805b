"""Write an adapter for another tool to read, exactly, or say why that is not possible.

aligner-probe export SOURCE --to merged|steering|peft|peft-bias|lit-llama|native --out PLACE [--model M]
"""

from collections.abc import Sequence
from pathlib import Path

from aligner_probe.commands.options import Parser, add_quantization, add_threads, command_parser, use_threads

EXPORT_FORMATS = ("merged", "steering", "peft", "peft-bias", "lit-llama", "native")
EPILOG = """\
exports:
  merged     a plain Hugging Face model whose attention output bias is the adapter. This works
             for adapters that add a constant: one token, or output_bias. Needs --model
  steering   the same constant as one vector for each layer, for TransformerLens or forward
             hooks. Needs --model
  peft       a PEFT folder: LoRA; LLaMA-Adapter and Aligner with one gate for each layer
  peft-bias  the same constant as biases of PEFT's LoRA, with A = B = 0; PEFT mixes many such
             adapters and the base model in one batch. Needs --model
  lit-llama  a .pth file with the authors' names: any Aligner or LLaMA-Adapter
  native     this project's folder: any Aligner or LLaMA-Adapter, from any format; LoRA from a
             PEFT folder, with --model

With --model, what is written for transformers and PEFT is loaded there before it appears, and
three checks are made: the adapter is applied (the logits differ from the base model's), it is
the right one (they differ more from every other adapter's), and it is equal (they are this
adapter's own within the precision). If one fails, nothing is written.

examples:
  aligner-probe export published:metamath-10-7b --to native --out out/metamath10
  aligner-probe export out/one --to peft-bias --model M --other out/two --out out/one-peft
"""


def parser() -> Parser:
    parser = command_parser("export", EPILOG)
    parser.add_argument(
        "source", metavar="SOURCE", help="an adapter's folder or file, of any known format, or published:NAME"
    )
    parser.add_argument("--to", required=True, choices=EXPORT_FORMATS, help="the format to write, see below")
    parser.add_argument("--out", required=True, type=Path, metavar="PLACE", help="a new folder (lit-llama: a new file)")
    parser.add_argument("--model", metavar="M", help="the base model: a hub id, or a local folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the base model and the merged model (default: as the base model is stored)",
    )
    add_quantization(parser)
    parser.add_argument(
        "--force", action="store_true", help="write it even if the adapter was trained on another base model"
    )
    parser.add_argument(
        "--other",
        action="append",
        default=[],
        metavar="ADAPTER",
        help="another adapter for the same base, which the written one must not be (may be given several times)",
    )
    parser.add_argument(
        "--no-check", action="store_true", help="write it without the three checks in the tool that reads it"
    )
    add_threads(parser)
    parser.add_reading_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    use_threads(options.threads)

    import torch

    from aligner_probe.checkpoints.exporting import export_adapter

    done = export_adapter(
        options.source,
        options.to,
        options.out,
        model=options.model,
        dtype=None if options.dtype is None else getattr(torch, options.dtype),
        force=options.force,
        gate=options.gate,
        adapter_length=options.adapter_length,
        quantization=options.quantization,
        check=not options.no_check,
        others=options.other,
    )
    print("\n".join(done.notes))
    print(f"wrote {done.path}")
    return 0
