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
