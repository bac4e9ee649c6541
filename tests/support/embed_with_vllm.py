"""Plain texts to vectors by vLLM as anyone calls it: `embed_with_vllm.py FOLDER TEXTS OUT`, lists in JSON."""

import json
import sys
from pathlib import Path


def main():
    from vllm import LLM

    folder, texts, out = sys.argv[1:]
    model = LLM(folder, runner="pooling", dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=4)
    made = model.embed(json.loads(texts), use_tqdm=False)
    Path(out).write_text(json.dumps([list(one.outputs.embedding) for one in made]), encoding="utf-8")


if __name__ == "__main__":
    main()
