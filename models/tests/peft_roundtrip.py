"""Opens what `cargo run --release -p palinode-models --example write_adapted FOLDER` wrote with transformers and PEFT
and compares logits: the base with its adapter, merged weights, and a model that was finetuned in full. Then writes
adapters with PEFT into FOLDER/peft, for `cargo run --release -p palinode-models --example read_adapted FOLDER/peft` to
read. Run by hand: `python peft_roundtrip.py FOLDER`.
"""

import shutil
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

ROOT = Path(sys.argv[1])


def load(folder):
    classifies = "Classification" in AutoConfig.from_pretrained(str(folder)).architectures[0]
    auto = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    return auto.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def differences(folder):
    """Largest differences of logits: the adapter's, if there is one, and the merged or full weights'."""
    expected = load_file(str(folder / "expected.safetensors"))
    ids, logits = expected["ids"].long(), expected["logits"]
    base = load(folder / "base")
    effect = (base(ids).logits - logits).abs().max().item()
    found = {}
    if (folder / "adapter_config.json").exists():
        with warnings.catch_warnings():
            # PEFT only warns of keys that are missing.
            warnings.filterwarnings("error", message=".*missing.*")
            adapted = PeftModel.from_pretrained(base, str(folder))
        found["adapter"] = (adapted(ids).logits - logits).abs().max().item()
    found["whole"] = (load(folder / "merged")(ids).logits - logits).abs().max().item()
    assert effect > 0.1, f"{folder.name} does nothing"
    print(f"{folder.name}: {', '.join(f'{key} off by {value:.1e}' for key, value in found.items())}, effect {effect:.2f}")
    return found.values()


def settings(family):
    """What of a config can change which modules an adapter touches, and how."""
    attention, block, embedding, norm = {
        "gpt2": ("c_attn", "h", "wte", "ln_f"),
        "llama": ("v_proj", "layers", "embed_tokens", "norm"),
    }[family]
    return {
        "default": dict(r=4),
        "patterns": dict(
            r=3, lora_alpha=5, use_rslora=True, target_modules="all-linear",
            rank_pattern={rf"{block}\.[12]\..*": 2, f"z.{attention}|{attention}": 6},
            alpha_pattern={rf".*\.{block}\.1\.mlp\..*": 5, attention: 9},
        ),
        "regex": dict(r=4, target_modules=rf".*\.{block}\.(?!1\.)\d+\..*attn\.(c_.*|.*_proj)", exclude_modules=r".*\.2\..*_proj"),
        "saved": dict(
            r=2, target_modules=[attention], layers_to_transform=[0, 2], layers_pattern=[block],
            modules_to_save=["lm_head", norm],
        ),
        "embedding": dict(r=2, target_modules=[attention], layers_to_transform=1, modules_to_save=[embedding]),
        "oversized": dict(r=64, target_modules=[attention]),
    }


@torch.no_grad()
def write(folder, base, kind, config, task_type="CAUSAL_LM", pickled=False):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder / "base")
    model = get_peft_model(load(base), LoraConfig(task_type=task_type, **config)).eval()
    random = torch.Generator().manual_seed(len(kind))
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    model.save_pretrained(str(folder), safe_serialization=not pickled)
    ids = torch.randint(1, 90, (2, 12), generator=random)
    logits = PeftModel.from_pretrained(load(base), str(folder)).eval()(ids).logits
    save_file({"ids": ids.float(), "logits": logits}, str(folder / "expected.safetensors"))


worst = 0.0
folders = sorted(path for path in ROOT.iterdir() if path.is_dir() and path.name != "peft")
for folder in folders:
    worst = max(worst, *differences(folder))
assert worst < 1e-5, worst
warnings.simplefilter("ignore")
for family in ("gpt2", "llama"):
    for kind, config in settings(family).items():
        write(ROOT / "peft" / f"{family}-{kind}", ROOT / f"{family}-full" / "base", kind, config)
for family, names in {"gpt2": ["c_attn", "c_fc"], "opt": ["q_proj", "fc2"], "bert": ["query", "dense"]}.items():
    base = ROOT / f"{family}-classifier-default" / "base"
    kinds = {"default": dict(r=3), "all": dict(r=2, target_modules="all-linear"), "names": dict(r=4, target_modules=names)}
    for kind, config in kinds.items():
        write(ROOT / "peft" / f"{family}-classifier-{kind}", base, kind, config, "SEQ_CLS", pickled=kind == "names")
