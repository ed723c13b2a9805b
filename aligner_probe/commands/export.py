"""Write an adapter for another tool to read, exactly, or say why that is not possible.

aligner-probe export SOURCE --to merged|steering|peft|lit-llama|native --out PLACE [--model M]
"""

from collections.abc import Sequence
from pathlib import Path

from aligner_probe.commands.options import Parser, add_quantization, add_threads, command_parser, use_threads

EXPORT_FORMATS = ("merged", "steering", "peft", "lit-llama", "native")
EPILOG = """\
exports:
  merged     a plain Hugging Face model whose attention output bias is the adapter. This works
             for adapters that add a constant: one token, or output_bias. Needs --model
  steering   the same constant as one vector for each layer, for TransformerLens or forward
             hooks. Needs --model
  peft       a PEFT folder: LoRA; LLaMA-Adapter and Aligner with one gate for each layer
  lit-llama  a .pth file with the authors' names: any Aligner or LLaMA-Adapter
  native     this project's folder: any Aligner or LLaMA-Adapter, from any format; LoRA from a
             PEFT folder, with --model

example:
  aligner-probe export published:metamath-10-7b --to native --out out/metamath10
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
    )
    print("\n".join(done.notes))
    print(f"wrote {done.path}")
    return 0
