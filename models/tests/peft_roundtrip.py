"""Opens what `cargo run --release -p palinode-models --example write_adapted FOLDER` wrote with transformers and PEFT
and compares logits: the base with its adapter, and the merged weights. Run by hand: `python peft_roundtrip.py FOLDER`.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def load(folder):
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager").eval()


worst = 0.0
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    expected = load_file(str(folder / "expected.safetensors"))
    ids, logits = expected["ids"].long(), expected["logits"]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT only warns of missing adapter keys
        base = load(folder / "base")
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(folder))(ids).logits
        merged = load(folder / "merged")(ids).logits
    effect = (plain - logits).abs().max().item()
    differences = [(found - logits).abs().max().item() for found in (adapted, merged)]
    print(f"{folder.name}: adapter off by {differences[0]:.1e}, merged by {differences[1]:.1e}, effect {effect:.2f}")
    assert effect > 0.1, "the adapter does nothing"
    worst = max(worst, *differences)
assert worst < 1e-4, worst
