#!/usr/bin/env python3
"""dag.py N [outdir] : one layered DAG -> dag.json, pipeline.yaml, dvc.yaml, Snakefile, build.ninja (same commands).
N stages in 10 layers of N/10; layer 0 reads in/sK.txt, each later stage reads 1-2 outputs of the layer before.
Every stage: sha256sum DEPS > out/I.txt   (output is < 200 bytes).
Leaf change for the incremental test: in/s0.txt (its downstream cone is in dag.json as cone_of_s0)."""
import json, os, random, sys
N = int(sys.argv[1]); out = sys.argv[2] if len(sys.argv) > 2 else f"p{N}"
L = 10; W = N // L; rnd = random.Random(7)
os.makedirs(out, exist_ok=True); os.makedirs(f"{out}/in", exist_ok=True); os.makedirs(f"{out}/out", exist_ok=True)
stages = []
for i in range(N):
    l, k = divmod(i, W)
    if l == 0: deps = [f"in/s{k}.txt"]
    else:
        prev = [(l-1)*W + k] + ([(l-1)*W + rnd.randrange(W)] if rnd.random() < .5 else [])
        deps = [f"out/{p}.txt" for p in dict.fromkeys(prev)]
    stages.append(dict(name=f"s{i}", deps=deps, out=f"out/{i}.txt", cmd=f"sha256sum {' '.join(deps)} > out/{i}.txt"))
for k in range(W): open(f"{out}/in/s{k}.txt", "w").write(f"source {k}\n")
hit = {"in/s0.txt"}; cone = []
for s in stages:
    if hit & set(s["deps"]): hit.add(s["out"]); cone.append(s["name"])
json.dump(dict(n=N, stages=stages, cone_of_s0=cone), open(f"{out}/dag.json", "w"))
with open(f"{out}/dvc.yaml", "w") as f:
    f.write("stages:\n")
    for s in stages:
        f.write(f"  {s['name']}:\n    cmd: {s['cmd']}\n    deps:\n" + "".join(f"    - {d}\n" for d in s["deps"]) + f"    outs:\n    - {s['out']}\n")
consumed = {d for s in stages for d in s["deps"]}
with open(f"{out}/Snakefile", "w") as f:
    f.write('''import json
STAGES = json.load(open("dag.json"))["stages"]; D = {s["out"]: s["deps"] for s in STAGES}
rule all:
    input: [s["out"] for s in STAGES]
rule stage:
    input: lambda wc: D[f"out/{wc.i}.txt"]
    output: "out/{i}.txt"
    wildcard_constraints: i=r"\\d+"
    shell: "sha256sum {input} > {output}"
''')
with open(f"{out}/build.ninja", "w") as f:
    f.write("rule stage\n  command = sha256sum $in > $out\n\n")
    for s in stages: f.write(f"build {s['out']}: stage {' '.join(s['deps'])}\n")
def palinode(stage):
    """The same command where a stage sees its inputs: `../in/<port>/<file>`, one port for each."""
    ports, files = [], []
    for i, dep in enumerate(stage["deps"]):
        source = dep.startswith("in/")
        ports.append(f"d{i}: ./{dep}" if source else f"d{i}: s{dep[4:-4]}")
        files.append(f"../in/d{i}/{dep[3:]}" if source else f"../in/d{i}/o.txt")
    run = f"sha256sum {' '.join(files)} > o.txt"
    return f"  {stage['name']}: {{ uses: command, inputs: {{ {', '.join(ports)} }}, with: {{ run: '{run}', outputs: {{ o: o.txt }} }} }}\n"
with open(f"{out}/pipeline.yaml", "w") as f:
    f.write("name: dag\nstages:\n" + "".join(map(palinode, stages)))
print(out, N, "stages; cone of s0:", len(cone))
