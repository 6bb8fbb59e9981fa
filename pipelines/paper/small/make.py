"""Makes the tables beside it: sentences of a few words, one of which tells the class, in nine of ten."""

import random
from pathlib import Path

GOOD = "bright warm gentle brave lively tender clever".split()
BAD = "dull cold harsh clumsy hollow bitter dreary".split()
THINGS = "story tale scene song cast plot ending".split()


def rows(count, share, rng):
    for _ in range(count):
        label = int(rng.random() < share)
        told = label if rng.random() < 0.9 else 1 - label
        word, thing, other = rng.choice(GOOD if told else BAD), rng.choice(THINGS), rng.choice(THINGS)
        text = rng.choice(["a {w} {t} and its {o}", "the {t} is {w} , the {o} is not", "its {o} makes a {w} {t}"])
        yield text.format(w=word, t=thing, o=other), label


rng = random.Random(1)
for name, count in [("train", 160), ("dev", 40), ("test", 80)]:
    lines = ["sentence\tlabel"] + [f"{text}\t{label}" for text, label in rows(count, 0.6, rng)]
    Path(__file__).with_name(f"{name}.tsv").write_text("\n".join(lines) + "\n")


def bert(folder):
    """A BERT of one block with random weights, and the words of the tables as its vocabulary. Wants transformers."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    words = {word for name in ["train", "dev", "test"] for word in Path(__file__).with_name(f"{name}.tsv").read_text().split()}
    words = sorted(words - {"sentence", "label", "0", "1"})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(1)
    shape = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, initializer_range=0.1, **shape)
    BertForMaskedLM(config).save_pretrained(folder)
    folder.joinpath("vocab.txt").write_text("\n".join(vocabulary) + "\n")


if __name__ == "__main__":
    import sys

    if "bert" in sys.argv[1:]:
        bert(Path(__file__).with_name("bert"))
